"""A directory of results that survives being killed: one JSON line an item, on disk before the next one is begun."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from rapid_jax.config.mapping import flatten
from rapid_jax.evaluation.benchmarks.files import parse_record
from rapid_jax.evaluation.results import Check, check_key, check_result, identity, read_object
from rapid_jax.evaluation.writing import encoded, naming, replace_text

MANIFEST, RESULTS = "manifest.json", "results.jsonl"


class ResultStore:
    """Results of one configuration. Use it as a context manager; a second process is refused meanwhile.

    Args:
      directory: made if it does not exist.
      manifest: what all results have in common, JSON; written before the first result, compared afterwards.
      check: raises ValueError for a record that is there and is none.

    Raises:
      ValueError: the directory holds results of another configuration, a manifest that is none, or a line that is not
        a result; names the file and the line.
      OSError: another process writes there, or the directory cannot be written.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any], check: Check = check_key):
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / RESULTS
        self._file = _opened_alone(self._path)
        try:
            self._check_manifest(directory / MANIFEST, json.loads(json.dumps(manifest)))
            self._done = {record["key"] for _, record, _ in _numbered_results(directory, check)}
            self._cut_last_line()
        except BaseException:
            self._file.close()
            raise

    def _check_manifest(self, path: Path, manifest: dict[str, Any]) -> None:
        if not self._path.stat().st_size:
            replace_text(path, json.dumps(manifest, indent=1, ensure_ascii=False))
            return
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; name another directory for the results")
        if not path.exists():
            raise ValueError(f"{path.parent} holds results without their {MANIFEST}; name another directory")
        different = first_difference(read_object(path, "the manifest of an evaluation"), manifest)
        if different is not None:
            name, old, new = different
            raise ValueError(
                f"{path.parent} holds results with {name} = {old!r}, this run has {new!r}: name another directory, or "
                "run with the old setting"
            )

    def _cut_last_line(self) -> None:
        """Removes a line that was cut off while it was written."""
        kept = complete_bytes(self._path)
        if self._path.stat().st_size != kept:
            with naming(self._path):
                self._file.truncate(kept)

    def __contains__(self, key: str) -> bool:
        return key in self._done

    @property
    def keys(self) -> list[str]:
        """Names of the results that are there."""
        return sorted(self._done)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records, each with a "key" that is not there yet, and waits until they are on disk.

        Raises:
          ValueError: a key that is there.
          OSError: they cannot be written, as on a full disk; names the file.
        """
        records = list(records)
        keys = [record["key"] for record in records]
        for number, key in enumerate(keys):
            if key in self._done or key in keys[:number]:
                raise ValueError(f"result {key} is already there")
        data = memoryview(encoded(_lines(records)))
        with naming(self._path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self._done.update(keys)

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _opened_alone(path: Path) -> io.FileIO:
    """A file of results, open to be appended to by this process alone."""
    with naming(path):
        file = path.open("ab", buffering=0)  # what a full disk has refused is not tried again
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OSError(f"{path.parent} is being written by another evaluation; wait for it or name another") from None
    return file


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting in which two manifests differ: its dotted name and both values, None for one that is not there.

    None where they are equal.
    """
    left, right = flatten(one), flatten(other)
    different = (name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name))
    return next(((name, left.get(name), right.get(name)) for name in different), None)


def replace_results(
    directory: Path, manifest: Mapping[str, Any], records: Iterable[Mapping[str, Any]], files: Mapping[str, str]
) -> None:
    """Makes a directory of results at once, or writes one anew; nothing that is there may be lost by that.

    Args:
      directory: made if it does not exist.
      manifest: what all results have in common.
      records: the results.
      files: names and texts of the files beside them.

    Raises:
      ValueError: the directory holds a result that is not among these.
      OSError: another process writes there, or a file cannot be written; names it.
    """
    records = list(records)
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _opened_alone(directory / RESULTS):
        kept = {record["key"]: record for record in records}
        lost = sum(kept.get(record["key"]) != record for record in read_results(directory))
        if lost:
            raise ValueError(f"{directory} holds {lost:,} results that are not among these: name another directory")
        replace_text(directory / RESULTS, _lines(records))
        for name, text in files.items():
            replace_text(directory / name, text)
        replace_text(directory / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class ElsewhereStore:
    """What the other hosts see of the first one's store: which results are there. They write none."""

    def __init__(self, done: Iterable[str]):
        self._done = set(done)

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes note of records that the first host writes."""
        self._done.update(record["key"] for record in records)

    def __enter__(self) -> ElsewhereStore:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_store(directory: Path, manifest: Mapping[str, Any]) -> ResultStore | ElsewhereStore:
    """The store of a run, which only the first of several hosts writes; all of them ask the same of it.

    Raises:
      ValueError, OSError: see ResultStore.
      OtherHostFailed: on the other hosts.
    """
    from models import hosts  # with JAX, which reading results does without

    opened: list[ResultStore] = []

    def there() -> list[str]:
        opened.append(ResultStore(directory, manifest, check_result))
        return opened[0].keys

    keys = hosts.from_main(there)
    return opened[0] if opened else ElsewhereStore(keys)


def complete_bytes(path: Path) -> int:
    """Size of a file up to the end of its last whole line: what follows was cut off while it was written."""
    return path.read_bytes().rfind(b"\n") + 1


def read_manifest(directory: Path) -> dict[str, Any]:
    """What all results of a directory have in common.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is not a manifest; names it.
    """
    path = directory / MANIFEST
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; it should be the manifest of an evaluation")
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no results: there is no {MANIFEST} in it")
    return read_object(path, "the manifest of an evaluation")


def read_results(directory: Path, check: Check = check_key) -> list[dict[str, Any]]:
    """All results, in the order in which they were written; a last line without its end is left out.

    A result that stands twice counts once, the first time, and that is said.

    Args:
      directory: of the results.
      check: raises ValueError for a record that is none, such as `results.check_result`.

    Raises:
      FileNotFoundError: there is no file of results.
      ValueError: a line that is not a result, named by its number.
    """
    results = []
    for number, record, first in _numbered_results(directory, check):
        if first:
            logging.warning("%s, line %d repeats line %d and is left out", directory / RESULTS, number, first)
        else:
            results.append(record)
    return results


def _numbered_results(directory: Path, check: Check) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Number and fields of every line, and the number of the line that it repeats, 0 for none."""
    path = directory / RESULTS
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; it should be a file of results")
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no results: there is no {RESULTS} in it")
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if b"\r" in data[whole:].strip():  # to cut them off as one unfinished line would lose them
        raise ValueError(f"{path}: its lines end in carriage returns; end them in newlines")
    seen: dict[Any, int] = {}
    for number, line in enumerate(data[:whole].split(b"\n"), start=1):
        if not line.strip():
            continue
        parsed = parse_record(line, f"{path}, line {number}: not a result of an evaluation")
        check(parsed)
        record = dict(parsed.fields)
        names = (record["key"], identity(record))
        first = next((seen[name] for name in names if name in seen), 0)
        for name in names:
            seen.setdefault(name, number)
        yield number, record, first
