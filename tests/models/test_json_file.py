"""JSON files that somebody else wrote: every defect ends in one line that names the file."""

from __future__ import annotations

import json

import pytest

from models.json_file import read_json, read_json_value
from models.safetensors_io import INDEX, SafetensorsDirectory

DEEP = "[" * 100_000 + "]" * 100_000
BROKEN = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\t", "the file is empty"),
    "cut": (b'{"a": [1, 2', "Expecting ',' delimiter"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "can't decode byte 0xff"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "begins with a byte order mark"),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', "begins with a byte order mark"),
    "nested lists": (DEEP.encode(), "more than 64 levels of nesting"),
    "nested objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "more than 64 levels of nesting"),
    "nested lists that never end": (b"[" * 100_000, "more than 64 levels of nesting"),
    "nested less than the parser's limit": (b'{"a":' + b"[" * 80 + b"]" * 80 + b"}", "more than 64 levels of nesting"),
    "a huge integer": (b'{"a": ' + b"1" * 5000 + b"}", "a number has 5000 digits"),
    "a huge float": (b'{"a": 1e999}', "the number 1e999 is too large"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON number"),
    "Infinity": (b'{"a": [-Infinity]}', "-Infinity is no JSON number"),
    "a name that stands twice": (b'{"a": 1, "b": {"c": 2, "c": 3}}', "'c' stands twice, as 2 and as 3"),
    "a list": (b"[1, 2]", "must hold a JSON object, got [1, 2]"),
    "a string": (b'"text"', "must hold a JSON object, got 'text'"),
    "null": (b"null", "must hold a JSON object, got None"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_line_that_names_them(tmp_path, case):
    """A stranger's file would end in a traceback, or one of two contradicting values would be taken."""
    content, message = BROKEN[case]
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_json(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(file)) + 200


def test_a_directory_in_place_of_the_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json must be a file, and is a directory"):
        read_json(tmp_path / "config.json")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(ValueError, match="has 1099511627776 bytes; a JSON file of a checkpoint has at most"):
        read_json(file)


def test_good_files_are_read_as_they_are(tmp_path):
    """Published files repeat a name now and then, and hold 1e30 where a tokenizer has no limit."""
    value = {"a": [1, -2.5, None, True, {"ü": "\u2028"}], "limit": 10**30, "small": 1e-320}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    (tmp_path / "b.json").write_text('{"a": [1], "b": 2, "a": [1]}')
    assert read_json(tmp_path / "b.json") == {"a": [1], "b": 2}
    (tmp_path / "c.json").write_text("[[]]")
    assert read_json_value(tmp_path / "c.json") == [[]]


@pytest.mark.parametrize("content", [DEEP, '{"weight_map": ' + DEEP + "}", '{"weight_map": {"a": "1", "a": "2"}}'])
def test_a_broken_index_is_refused_in_one_line(tmp_path, content):
    """An index that names two files for one tensor would read one of them without a word."""
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ValueError) as caught:
        SafetensorsDirectory(tmp_path)
    assert str(tmp_path / INDEX) in str(caught.value)
    assert "\n" not in str(caught.value)
