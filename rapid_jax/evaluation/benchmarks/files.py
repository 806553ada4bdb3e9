"""Records of a data file (JSON, JSONL or parquet), read field by field; whatever is wrong is named by file and line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclasses.dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
      where: file and line, or file and number of the record (from 1) where lines mean nothing.
      fields: name -> value.
    """

    where: str
    fields: Mapping[str, Any]

    def error(self, message: str) -> ValueError:
        """An error that says where the record stands."""
        return ValueError(f"{self.where}: {message}")

    def value(self, name: str) -> Any:
        """Any value. Raises ValueError where the field is missing."""
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A string with something in it. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"field {name!r} must be a string that is not empty, got {_shown(value)}")
        return value

    def texts(self, name: str, number: int | None = None) -> tuple[str, ...]:
        """A list of strings, at least one, or exactly `number`. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(part, str) for part in value):
            raise self.error(f"field {name!r} must be a list of strings that is not empty, got {_shown(value)}")
        if number is not None and len(value) != number:
            raise self.error(f"field {name!r} must hold {number} strings, got {len(value)}")
        return tuple(value)

    def key(self, name: str) -> str:
        """A string that is not empty or a whole number, as a string. Raises ValueError for anything else."""
        value = self.value(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        """One of the allowed strings. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.error(f"field {name!r} must be one of {', '.join(allowed)}, got {_shown(value)}")
        return value


def _shown(value: object) -> str:
    """A value in a message: one line, not a book."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_records(path: Path) -> Iterator[Record]:
    """Records in file order: the lines of .jsonl (empty ones are skipped), the list of .json, the rows of .parquet.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: another suffix, a record that is not an object, no record at all, or parquet without pyarrow.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file that ends with {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no data file at {path}")
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a data file ends with {', '.join(SUFFIXES)}")
    empty = True
    try:
        for where, value in readers[path.suffix](path):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: not an object but {_shown(value)}")
            empty = False
            yield Record(where, value)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    if empty:
        raise ValueError(f"{path}: the file holds no records")


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{where}: not JSON ({error.msg})") from None
                yield where, value


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(values, list):
        raise ValueError(f"{path}: not a list of records but {_shown(values)}")
    for number, value in enumerate(values, start=1):
        yield f"{path}, record {number}", value


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{path}: parquet needs the package pyarrow: pip install pyarrow") from None
    if not path.stat().st_size:
        return
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield f"{path}, record {number}", value
    except pyarrow.ArrowException as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise ValueError(f"{path}: not a parquet file ({reason})") from None


def fingerprint(settings: Mapping[str, Any], *parts: Path | str) -> str:
    """SHA-256 as hex digits of JSON-like settings and, in order, of the bytes of files and of texts."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        else:
            digest = hashlib.sha256(part.encode("utf-8", "surrogatepass"))
        total.update(digest.digest())
    return total.hexdigest()
