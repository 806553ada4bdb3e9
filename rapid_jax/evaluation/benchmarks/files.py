"""Records of a data file (JSON, JSONL or parquet), read field by field; whatever is wrong is named by file and line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".json", ".parquet")

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
      where: file and line, or file and number of the record (from 1) where lines mean nothing.
      fields: name -> value.
      problem: why it is no record; its fields are then not there to be read.
    """

    where: str
    fields: Mapping[str, Any]
    problem: str = ""

    def error(self, message: str) -> ValueError:
        """An error that says where the record stands."""
        return ValueError(f"{self.where}: {message}")

    def value(self, name: str) -> Any:
        """Any value. Raises ValueError where the field is missing."""
        if self.problem:
            raise self.error(self.problem)
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A string with something in it. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"field {name!r} must be a string that is not empty, got {shown(value)}")
        return value

    def texts(self, name: str, number: int | None = None) -> tuple[str, ...]:
        """A list of strings, at least one, or exactly `number`. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(part, str) for part in value):
            raise self.error(f"field {name!r} must be a list of strings that is not empty, got {shown(value)}")
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
            raise self.error(f"field {name!r} must be one of {', '.join(allowed)}, got {shown(value)}")
        return value

    def part(self, name: str) -> Record:
        """An object with fields of its own. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.error(f"field {name!r} must be an object with fields, got {shown(value)}")
        return Record(f"{self.where}: {name}", value)

    def count(self, name: str, least: int, most: int) -> int:
        """A whole number in [least, most]. Raises ValueError for anything else."""
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.error(f"field {name!r} must be a whole number of {least} to {most}, got {shown(value)}")
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """A finite number in [least, most]. Raises ValueError for anything else."""
        value = self.value(name)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not least <= value <= most:
            raise self.error(f"field {name!r} must be a number of {least:g} to {most:g}, got {shown(value)}")
        return value


def shown(value: object) -> str:
    """A value in a message: one line, not a book."""
    if isinstance(value, str | bytes | list | tuple):
        value = value[:60]  # the rest would not be shown
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse_json(data: bytes | str) -> Any:
    """A JSON value; half of a surrogate pair in a string, which no tokenizer takes, becomes U+FFFD.

    Raises:
      ValueError: not JSON, not UTF-8, or nested too deep; says what, not where.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text)
        return _well_formed(value) if "\\ud" in text.lower() else value
    except json.JSONDecodeError as error:
        raise NotJSONError(f"not JSON ({error.msg})", error.lineno) from None
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        raise ValueError("a number of more than 4,300 digits") from None


class NotJSONError(ValueError):
    """A text that is not JSON, and the line of it, from 1, where that is seen."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


def _well_formed(value: Any) -> Any:
    """The value with U+FFFD for every half of a surrogate pair in its strings."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_well_formed(part) for part in value]
    if isinstance(value, dict):
        return {_well_formed(name): _well_formed(part) for name, part in value.items()}
    return value


def read_records(path: Path, *, keep_bad: bool = False) -> Iterator[Record]:
    """Records in file order: the lines of .jsonl (empty ones are skipped), the list of .json, the rows of .parquet.

    Args:
      path: the file.
      keep_bad: a record that is not an object, or a line that is not JSON, comes as a record whose fields raise the
        error, so that it does not take the others along.

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
    for record in readers[path.suffix](path):
        empty = False
        if record.problem and not keep_bad:
            raise record.error(record.problem)
        yield record
    if empty:
        raise ValueError(f"{path}: the file holds no records")


def parse_record(line: bytes, where: str) -> Record:
    """The object of a line of JSON; of any other line a record whose fields raise what is wrong with it."""
    try:
        return _record(where, parse_json(line))
    except ValueError as error:
        return Record(where, {}, str(error))


def _record(where: str, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(where, value)
    return Record(where, {}, f"not an object but {shown(value)}")


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield parse_record(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    if not data.strip():
        return
    try:
        values = parse_json(data)
    except NotJSONError as error:
        raise ValueError(f"{path}, line {error.line}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, list):
        raise ValueError(f"{path}: not a list of records but {shown(values)}")
    for number, value in enumerate(values, start=1):
        yield _record(f"{path}, record {number}", value)


def _parquet(path: Path) -> Iterator[Record]:
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
                    yield _record(f"{path}, record {number}", value)
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
