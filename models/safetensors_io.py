"""Hugging Face safetensors directories: every tensor's header first, then one slice at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.json_file import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "BF16", "F16")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a safetensors file says of one tensor: its file, shape and dtype."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class SafetensorsDirectory:
    """The open safetensors files of a checkpoint; a context manager.

    Opening reads headers only, and finds missing, truncated and contradictory files.

    Attributes:
      headers: tensor name -> Header.

    Raises:
      FileNotFoundError: no safetensors files, or one that the index names is not there.
      ValueError: a file is truncated or not safetensors, or the index and its files disagree.
    """

    def __init__(self, directory: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self.headers: dict[str, Header] = {}
        with contextlib.ExitStack() as opening:
            for name, wanted in _files_of(directory).items():
                self._files[name] = opening.enter_context(_open(directory / name))
                self._read_headers(name, wanted, directory)
            self._stack = opening.pop_all()

    def _read_headers(self, file: str, wanted: list[str] | None, directory: Path) -> None:
        names = list(self._files[file].keys())
        absent = sorted(set(wanted or ()) - set(names))
        if absent:
            raise ValueError(f"{directory / INDEX}: tensor {absent[0]} should be in {file}, which does not hold it")
        for name in names:
            part = self._files[file].get_slice(name)
            self.headers[name] = Header(file, tuple(part.get_shape()), part.get_dtype())

    def __enter__(self) -> SafetensorsDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def check(self, expected: Mapping[str, tuple[int, ...]], ignorable: Iterable[str], where: Path) -> None:
        """Compares the headers with the names and shapes that a model needs.

        Args:
          expected: name -> shape.
          ignorable: endings of names that may be there as well.
          where: what to call the checkpoint in a message.

        Raises:
          ValueError: tensors that are missing, surplus, misshapen or of a dtype that is no plain float.
        """
        missing = [name for name in expected if name not in self.headers]
        if missing:
            name = missing[0]
            raise ValueError(f"{where}: tensor {name} {list(expected[name])} is missing{_more(missing)}")
        endings = tuple(ignorable)
        surplus = [name for name in self.headers if name not in expected and not name.endswith(endings)]
        if surplus:
            raise ValueError(f"{where}: tensor {surplus[0]} is not part of the model of config.json{_more(surplus)}")
        for name, shape in expected.items():
            header = self.headers[name]
            if header.shape != shape:
                raise ValueError(f"{where}: tensor {name} has shape {list(header.shape)}, should be {list(shape)}")
            if header.dtype not in _DTYPES:
                raise ValueError(f"{where}: tensor {name} has dtype {header.dtype}; readable: {', '.join(_DTYPES)}")

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor in the file's dtype (bfloat16 as ml_dtypes.bfloat16)."""
        header = self.headers[name]
        file = self._files[header.file]
        whole = all(s.indices(n) == (0, n, 1) for s, n in zip(index, header.shape, strict=True))
        return file.get_tensor(name) if whole else file.get_slice(name)[index]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _files_of(directory: Path) -> dict[str, list[str] | None]:
    """File names -> the tensors that the index expects there; None without an index."""
    if (directory / SINGLE).is_file():
        return {SINGLE: None}
    if not (directory / INDEX).is_file():
        raise FileNotFoundError(f"{directory} holds neither {SINGLE} nor {INDEX}; other weight formats are not read")
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{directory / INDEX}: weight_map must map tensor names to file names")
    files: dict[str, list[str] | None] = {}
    for tensor, file in weight_map.items():
        if not (directory / file).is_file():
            raise FileNotFoundError(f"{directory / file} is missing; {INDEX} says that it holds tensor {tensor}")
        files.setdefault(file, [])
        files[file] = [*(files[file] or []), tensor]
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}); fetch it again") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, replacing the file at once."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_tensors(path: Path, tensors: Mapping[str, Any], sizes: Mapping[str, int], shard_bytes: int) -> None:
    """Writes model.safetensors, or numbered files with an index where that would exceed shard_bytes.

    Args:
      path: the directory.
      tensors: name -> function that gives the array; called when its file is written.
      sizes: name -> bytes.
      shard_bytes: the most bytes of tensors in one file; a larger tensor has a file of its own.
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
        temporary = path / (file + ".tmp")
        save_file({name: tensors[name]() for name in names}, temporary, metadata={"format": "pt"})
        os.replace(temporary, path / file)
    if many:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(path / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
