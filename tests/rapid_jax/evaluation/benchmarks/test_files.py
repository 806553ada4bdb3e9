"""Data files: whoever has a bad one must learn which line of which file to look at."""

import json
import sys

import pytest

from rapid_jax.evaluation.benchmarks.files import Record, fingerprint, read_records

RECORDS = [{"id": 1, "text": "one"}, {"id": 2, "text": "two\u2028lines"}]


def read(path):
    return [record.fields for record in read_records(path)]


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_records_come_back_in_order(write_records, name):
    """A record lost, or split at a line separator inside of a string, would change the benchmark."""
    assert read(write_records(name, RECORDS)) == RECORDS


def test_parquet_gives_the_same_records(tmp_path):
    """Files of the hub are parquet: their lists and numbers must come back as those of JSON do."""
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    records = [{"id": 1, "parts": ["a", "b"]}, {"id": 2, "parts": []}]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "data.parquet")
    found = list(read_records(tmp_path / "data.parquet"))
    assert [record.fields for record in found] == records
    assert found[1].where.endswith("data.parquet, record 2")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"bad.parquet: not a parquet file \([^\n]*\)$"):
        read(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    """The package is optional: its absence must not look like a broken file."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"data\.parquet: .*pip install pyarrow$"):
        read(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "line 3: not JSON"), ("[1, 2]", "line 3: not an object"), ("null", "line 3: not an object")],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    """Empty lines are skipped and still counted, or the number would lead to the wrong line."""
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"id": 1}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=rf"data\.jsonl, {message}"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": 1},\n{"id" 2}]', "data.json, line 2: not JSON"),
        ('{"id": 1}', "data.json: not a list of records"),
        ('[{"id": 1}, "two"]', "data.json, record 2: not an object"),
    ],
)
def test_a_malformed_list_is_named(tmp_path, text, message):
    """A JSON file of another form must not be read as a benchmark without items."""
    (tmp_path / "data.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "data.json")


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b""), ("a.jsonl", b"\n\n"), ("a.json", b""), ("a.json", b"[]")]
)
def test_a_file_without_records_is_refused(tmp_path, name, content):
    """A mean over nothing would be reported otherwise."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="the file holds no records"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_bytes_that_are_no_text_are_refused_by_name(tmp_path, name):
    """A compressed file under the wrong name is a common mistake."""
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(ValueError, match=rf"{name}(, line 1)?: not text in UTF-8"):
        read(tmp_path / name)


def test_missing_files_directories_and_other_endings_are_told_apart(tmp_path):
    """Each of them has another remedy."""
    with pytest.raises(FileNotFoundError, match="no data file at"):
        read(tmp_path / "data.jsonl")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        read(tmp_path)
    (tmp_path / "data.csv").write_text("id\n1\n")
    with pytest.raises(ValueError, match=r"data\.csv: a data file ends with \.jsonl"):
        read(tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("fields", "read_field", "message"),
    [
        ({}, lambda record: record.text("x"), "field 'x' is missing"),
        ({"x": 5}, lambda record: record.text("x"), "string that is not empty, got 5"),
        ({"x": " \n"}, lambda record: record.text("x"), "string that is not empty"),
        ({"x": "abc"}, lambda record: record.texts("x"), "list of strings that is not empty, got 'abc'"),
        ({"x": ["a", 1]}, lambda record: record.texts("x"), "list of strings that is not empty"),
        ({"x": []}, lambda record: record.texts("x"), "list of strings that is not empty"),
        ({"x": ["a", "b"]}, lambda record: record.texts("x", 4), "must hold 4 strings, got 2"),
        ({"x": True}, lambda record: record.key("x"), "string that is not empty, got True"),
        ({"x": "BC"}, lambda record: record.one_of("x", ("A", "B", "C")), "one of A, B, C, got 'BC'"),
        ({"x": ["A"]}, lambda record: record.one_of("x", ("A", "B")), "one of A, B, got"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(fields, read_field, message):
    """A type that slips through would fail hours later, in the middle of a run."""
    with pytest.raises(ValueError, match=f"data.jsonl, line 7: .*{message}"):
        read_field(Record("data.jsonl, line 7", fields))


def test_right_fields_are_read_as_they_are():
    """A checker that refuses good data would be worse than none."""
    record = Record("here", {"text": " a ", "list": ["x", ""], "number": 7, "name": "n", "letter": "B"})
    assert record.text("text") == " a " and record.texts("list", 2) == ("x", "")
    assert record.key("number") == "7" and record.key("name") == "n" and record.one_of("letter", tuple("AB")) == "B"


def test_a_long_value_is_not_shown_in_full():
    """A message that holds a book is not one line."""
    with pytest.raises(ValueError) as error:
        Record("here", {"x": ["word"] * 10_000 + [1]}).texts("x")
    assert len(str(error.value)) < 200


def test_fingerprint_changes_with_bytes_settings_and_order(tmp_path):
    """Results of different data under one fingerprint would be mixed in one table."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    first = fingerprint({"x": 1, "y": [2]}, a, b)
    assert first == fingerprint({"y": [2], "x": 1}, a, b) and len(first) == 64
    assert len({first, fingerprint({"x": 2, "y": [2]}, a, b), fingerprint({"x": 1, "y": [2]}, b, a)}) == 3
    assert fingerprint({}, a) == fingerprint({}, "one")
    assert fingerprint({}, "ab", "c") != fingerprint({}, "a", "bc")
    a.write_bytes(b"One")
    assert fingerprint({"x": 1, "y": [2]}, a, b) != first


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    """Files saved on Windows begin with one."""
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"id": 1}).encode())
    assert read(tmp_path / "data.jsonl") == [{"id": 1}]
