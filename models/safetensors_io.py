"""Hugging Face safetensors directories: every tensor's header first, then one slice at a time."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.fields import shown
from models.json_file import read_json
from models.sources.base import Header, Tensors, said

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FILE_NAME = re.compile(r"(?!\.\.?$)[^/\\]+")
_LONGEST_NAME = 255  # bytes, on the usual file systems


class SafetensorsDirectory(Tensors):
    """The open safetensors files of a checkpoint; a context manager.

    Opening reads headers only, and finds missing, damaged and contradictory files. With an index each tensor is the one
    in the file that the index names: other copies are left alone, and a warning tells of them.

    Raises:
      FileNotFoundError: no safetensors files, or one that the index names is not there.
      ValueError: a file is damaged or not safetensors, the index names a file outside of the directory or a tensor that
        its file does not hold, or without an index two files hold a tensor of the same name.
    """

    readable = ("F32", "BF16", "F16")

    def __init__(self, directory: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self.headers: dict[str, Header] = {}
        self._unread: dict[str, str] = {}  # tensor -> a file that holds it where the index does not place it
        with contextlib.ExitStack() as opening:
            for name, placed in _files_of(directory).items():
                self._files[name] = opening.enter_context(_open(directory / name))
                self._read_headers(name, placed, directory)
            self._stack = opening.pop_all()
        if self._unread:
            logging.warning(
                "%s does not place %d tensors where a file of it holds them, such as %s: they are not read",
                directory / INDEX,
                len(self._unread),
                " in ".join(map(said, next(iter(self._unread.items())))),
            )

    def _read_headers(self, file: str, placed: set[str] | None, directory: Path) -> None:
        headers = _headers(directory / file)
        absent = sorted(placed - headers.keys()) if placed is not None else []
        if absent:
            raise ValueError(
                f"{directory / INDEX}: tensor {said(absent[0])} should be in {file}, which does not hold it"
            )
        for name, header in headers.items():
            if placed is not None and name not in placed:
                self._unread[name] = file
                continue
            if name in self.headers:
                raise ValueError(
                    f"{directory}: tensor {said(name)} is in {self.headers[name].file} and in {file}, and there is no "
                    f"{INDEX} that tells which one counts; remove the file that is not part of the checkpoint"
                )
            self.headers[name] = header

    def why_missing(self, name: str) -> str:
        return f": {self._unread[name]} holds it, but {INDEX} does not name it" if name in self._unread else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor in the file's dtype (bfloat16 as ml_dtypes.bfloat16)."""
        header = self.headers[name]
        file = self._files[header.file]
        whole = all(s.indices(n) == (0, n, 1) for s, n in zip(index, header.shape, strict=True))
        return file.get_tensor(name) if whole else file.get_slice(name)[index]


def _files_of(directory: Path) -> dict[str, set[str] | None]:
    """File names -> the tensors that the index places there; None without an index."""
    if (directory / SINGLE).is_file():
        if (directory / INDEX).is_file():
            logging.warning("%s holds %s and %s: the former is read", directory, SINGLE, INDEX)
        return {SINGLE: None}
    if not (directory / INDEX).exists():
        found = sorted(file.name for file in directory.glob("*.safetensors") if file.is_file())
        if not found:
            raise FileNotFoundError(
                f"{directory} holds neither {SINGLE} nor {INDEX}; other weight formats are not read"
            )
        return dict.fromkeys(found)
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{directory / INDEX}: weight_map must map tensor names to file names")
    files: dict[str, set[str] | None] = {}
    for tensor, file in weight_map.items():
        placed = files.setdefault(file, set())
        if not placed:
            _check_file(directory, file, tensor)
        if placed is not None:
            placed.add(tensor)
    return files


def _check_file(directory: Path, file: str, tensor: str) -> None:
    """Refuses what is no file of the directory; a link to a file elsewhere, as the hub's cache has them, is one."""
    if not (_FILE_NAME.fullmatch(file) and file.isprintable()) or len(file.encode(errors="replace")) > _LONGEST_NAME:
        raise ValueError(
            f"{directory / INDEX}: tensor {said(tensor)} is placed in {shown(file)}; the name of a file in the same "
            f"directory is needed"
        )
    if not (directory / file).is_file():
        raise FileNotFoundError(f"{directory / file} is missing; {INDEX} says that it holds tensor {said(tensor)}")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is truncated or not a safetensors file ({cause}); fetch it again") from None


def _headers(path: Path) -> dict[str, Header]:
    """The headers of a file whose shapes and offsets `safe_open` has found right.

    Raises:
      ValueError: a tensor stands twice in it.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = file.read(length)
    try:
        entries = json.loads(content, object_pairs_hook=_unique)
    except ValueError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); fetch it again") from None
    entries.pop("__metadata__", None)
    return {
        name: Header(
            path.name, tuple(entry["shape"]), entry["dtype"], entry["data_offsets"][1] - entry["data_offsets"][0]
        )
        for name, entry in entries.items()
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} stands twice in its header")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, replacing the file at once; raises OSError with the file's name."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end; where writing fails it is removed.

    Raises:
      OSError: a full disk, or a directory that cannot be written to; one line that names `path`.
    """
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into an OSError of one line that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
        raise OSError(f"{path} cannot be written ({cause})") from None


def write_tensors(path: Path, tensors: Mapping[str, Any], sizes: Mapping[str, int], shard_bytes: int) -> None:
    """Writes model.safetensors, or numbered files with an index where that would exceed shard_bytes.

    Args:
      path: the directory.
      tensors: name -> function that gives the array; called when its file is written.
      sizes: name -> bytes.
      shard_bytes: the most bytes of tensors in one file; a larger tensor has a file of its own.

    Raises:
      OSError: a full disk, or a directory that cannot be written to; the file is named.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        if shards[-1] and used + sizes[name] > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += sizes[name]
    many = len(shards) > 1
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)] if many else [SINGLE]
    for stale in (INDEX,) if not many else (SINGLE,):
        (path / stale).unlink(missing_ok=True)
    for file, names in zip(files, shards, strict=True):
        held = {name: tensors[name]() for name in names}
        with replacing(path / file) as temporary:
            save_file(held, temporary, metadata={"format": "pt"})
    if many:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(path / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
