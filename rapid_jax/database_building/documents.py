"""The texts that a database is made of: the user's files, or generated archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from models.progress import ProgressCallback
from rapid_jax.evaluation.archive import make_archive, with_choices
from rapid_jax.evaluation.benchmarks.files import SUFFIXES, read_records

FIRST_SEED = 5_000_000  # of archives for databases: none that a model was trained, evaluated or timed on
TEXT_FIELDS = ("text", "context")


def check_files(paths: Sequence[Path]) -> None:
    """Checks, before anything slow, that all files are there.

    Raises:
      FileNotFoundError, IsADirectoryError: one is not.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; name a file")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")


def read_text(path: Path) -> str:
    """A text file.

    Raises:
      FileNotFoundError, IsADirectoryError: it is not there.
      ValueError: it is empty, or not text in UTF-8.
    """
    check_files([path])
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None
    if "\x00" in text:
        raise ValueError(f"{path} is a binary file; give a UTF-8 text file")
    if not text.strip():
        raise ValueError(f"{path} is empty; give a text file with something in it")
    return text


def read_documents(paths: Sequence[Path], progress: ProgressCallback | None = None) -> Iterator[str]:
    """Documents in the order of the files: a record of JSONL, JSON or parquet is one, and so is any other file.

    Args:
      paths: the files; a record's text is in its field "text" or "context".
      progress: called with (bytes read, bytes in all) after every document, about.

    Raises:
      FileNotFoundError, IsADirectoryError: a file is not there.
      ValueError: a file or a record without text, named by its line.
    """
    check_files(paths)
    done, total = 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        begun = done
        for text in _records(path) if path.suffix in SUFFIXES else [read_text(path)]:
            yield text
            done += len(text.encode("utf-8", "surrogatepass"))
            if progress is not None:
                progress(min(done, total), total)
        done = begun + path.stat().st_size


def archive_documents(
    archives: int, tokens: int, count_tokens: Callable[[str], int], progress: ProgressCallback | None = None
) -> Iterator[str]:
    """Generated archives, and each of their questions with its answer as a document of its own.

    Args:
      archives: how many.
      tokens: of each archive at most, as `count_tokens` counts.
      count_tokens: number of tokens of a text.
      progress: called with (archives done, archives in all).

    Raises:
      ValueError: archives too short to hold anything.
    """
    for number in range(archives):
        archive = make_archive(tokens, FIRST_SEED + number, count_tokens)
        yield archive.document
        for question in archive.questions:
            yield f"{with_choices(question)} {question.working}{question.answer}"
        if progress is not None:
            progress(number + 1, archives)


def _records(path: Path) -> Iterator[str]:
    for record in read_records(path):
        name = next((name for name in TEXT_FIELDS if name in record.fields), None)
        if name is None:
            raise record.error(f"no field {' or '.join(map(repr, TEXT_FIELDS))}")
        yield record.text(name)
