"""The texts that databases are made of: files of both kinds, and generated archives that nothing else uses."""

import json

import pytest

from rapid_jax.database_building.documents import FIRST_SEED, archive_documents, read_documents, read_text
from rapid_jax.evaluation.archive import make_archive


def count_words(text):
    return len(text.split())


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def records(path, *values):
    return write(path, "".join(json.dumps(value) + "\n" for value in values))


def test_a_text_file_is_one_document_and_a_record_is_one(tmp_path):
    files = [
        write(tmp_path / "a.txt", "first\n\nstill first\n"),
        records(tmp_path / "b.jsonl", {"text": "second"}, {"context": "third", "id": 3}, {"text": "é", "context": "x"}),
        write(tmp_path / "c.md", "\N{BYTE ORDER MARK}fourth"),
    ]
    seen = []
    texts = list(read_documents(files, lambda done, total: seen.append((done, total))))
    assert texts == ["first\n\nstill first\n", "second", "third", "é", "fourth"]
    total = sum(file.stat().st_size for file in files)
    assert [whole for _, whole in seen] == [total] * 5
    done = [part for part, _ in seen]
    assert done == sorted(done) and done[-1] <= total and done[0] == len(texts[0])


@pytest.mark.parametrize(
    "name, content, error, message",
    [
        ("a.txt", b"", ValueError, "a.txt is empty"),
        ("a.txt", b" \n", ValueError, "a.txt is empty"),
        ("a.txt", b"a\xff", ValueError, r"a.txt is not UTF-8 text \(byte 1\)"),
        ("a.txt", b"a\x00b", ValueError, "a.txt is a binary file"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', ValueError, "a.jsonl, line 2: no field 'text' or 'context'"),
        ("a.jsonl", b'{"text": 3}\n', ValueError, "a.jsonl, line 1: field 'text' must be a string"),
        ("a.jsonl", b"{\n", ValueError, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b"", ValueError, "holds no records"),
        ("b.txt", None, FileNotFoundError, "b.txt: no such file"),
        (".", None, IsADirectoryError, "is a directory; name a file"),
    ],
)
def test_what_is_no_corpus_is_named(tmp_path, name, content, error, message):
    """A long build must not end in a traceback over one line of one file."""
    good, path = write(tmp_path / "good.txt", "good"), tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(error, match=message):
        list(read_documents([good, path]))


def test_a_missing_file_is_found_before_the_first_one_is_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read_documents([write(tmp_path / "a.txt", "a"), tmp_path / "b.txt"]))
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "b.txt")


def test_archives_come_with_their_questions_answered():
    """What the target writes are answers; their words must be in the corpus in their order."""
    seen = []
    texts = list(archive_documents(2, 200, count_words, lambda done, total: seen.append((done, total))))
    archives = [make_archive(200, FIRST_SEED + number, count_words) for number in range(2)]
    assert len(texts) == sum(1 + len(archive.questions) for archive in archives)
    assert [text for text in texts if text in {archive.document for archive in archives}] == [
        archive.document for archive in archives
    ]
    first = archives[0].questions[0]
    assert texts[1] == f"{first.question} {first.answer}"
    assert seen == [(1, 2), (2, 2)]
