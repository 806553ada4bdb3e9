"""A directory of results that survives being killed: one JSON line an item, on disk before the next one is begun."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rapid_jax.config.mapping import flatten

MANIFEST, RESULTS = "manifest.json", "results.jsonl"


class ResultStore:
    """Results of one configuration. Use it as a context manager; a second process is refused meanwhile.

    Args:
      directory: made if it does not exist.
      manifest: what all results have in common, JSON; written before the first result, compared afterwards.

    Raises:
      ValueError: the directory holds results of another configuration, or a line that is not a result.
      OSError: another process writes there, or the directory cannot be written.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / RESULTS
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise OSError(f"{directory} is being written by another evaluation; wait for it or name another") from None
        try:
            self._check_manifest(directory / MANIFEST, json.loads(json.dumps(manifest)))
            self._file.truncate(complete_bytes(self._path))
            self._done = {record["key"] for record in read_results(directory)}
        except BaseException:
            self._file.close()
            raise

    def _check_manifest(self, path: Path, manifest: dict[str, Any]) -> None:
        if not self._path.stat().st_size:
            draft = path.with_suffix(".part")
            with draft.open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            return
        if not path.exists():
            raise ValueError(f"{path.parent} holds results without their {MANIFEST}; name another directory")
        old, new = flatten(json.loads(path.read_text(encoding="utf-8"))), flatten(manifest)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"{path.parent} holds results with {name} = {old.get(name)!r}, this run has {new.get(name)!r}: "
                    "name another directory, or run with the old setting"
                )

    def __contains__(self, key: str) -> bool:
        return key in self._done

    @property
    def keys(self) -> list[str]:
        """Names of the results that are there."""
        return sorted(self._done)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records, each with a "key" that is not there yet, and waits until they are on disk."""
        records = list(records)
        repeated = [record["key"] for record in records if record["key"] in self._done]
        if repeated:
            raise ValueError(f"result {repeated[0]} is already there")
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done.update(record["key"] for record in records)

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


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
        opened.append(ResultStore(directory, manifest))
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
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no results: there is no {MANIFEST} in it")
    return json.loads(path.read_text(encoding="utf-8"))


def read_results(directory: Path) -> list[dict[str, Any]]:
    """All results, in the order in which they were written; a last line without its end is left out.

    Raises:
      FileNotFoundError: there is no file of results.
      ValueError: a line that is not a result, named by its number.
    """
    path = directory / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no results: there is no {RESULTS} in it")
    results = []
    for number, line in enumerate(path.read_bytes()[: complete_bytes(path)].splitlines(), start=1):
        try:
            record = json.loads(line)
            record["key"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: not a result of an evaluation") from None
        results.append(record)
    return results
