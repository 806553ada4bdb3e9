"""GGUF files: a header whose every count is checked, and tensors whose rows are dequantised when they are read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The layouts of
blocks and their arithmetic are those of the `gguf` package.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_FIELDS = 2**16
_MOST_TENSORS = 2**17
_MOST_AXES = 4
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_PLAIN = {"F32": np.float32, "F16": np.float16}


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file.

    Attributes:
      file: that holds it.
      shape: rows first, as Hugging Face has it; GGUF writes the axes in the other order.
      kind: name of its type, such as "Q4_K".
      start, nbytes: its bytes in the file.
      block: numbers of a block of the last axis.
      block_bytes: bytes of a block.
    """

    file: Path
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int
    block: int
    block_bytes: int

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Rows and columns of a matrix, or numbers of a vector (its one row), as float32, float16 or bfloat16."""
        width = self.shape[-1]
        bytes_per_row = width // self.block * self.block_bytes
        first, last = columns.start // self.block, -(-columns.stop // self.block)
        held = np.memmap(self.file, np.uint8, "r", self.start, (self.nbytes // bytes_per_row, bytes_per_row))
        part = np.ascontiguousarray(held[rows, first * self.block_bytes : last * self.block_bytes])
        offset = first * self.block
        return _numbers(part, self.kind)[:, columns.start - offset : columns.stop - offset]


def _numbers(rows: np.ndarray, kind: str) -> np.ndarray:
    """Rows of bytes as numbers."""
    if kind in _PLAIN:
        return rows.view(_PLAIN[kind])
    if kind == "BF16":
        import jax.numpy as jnp  # a header is read without JAX

        return rows.view(np.dtype(jnp.bfloat16))
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return np.asarray(dequantize(rows, GGMLQuantizationType[kind]), np.float32)


@functools.cache
def can_be_read(kind: str) -> bool:
    """Whether the `gguf` package knows how to dequantise a type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        _numbers(np.zeros((1, GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class GGUFHeader:
    """What a file, or all parts of a split one, say before any number is read.

    Attributes:
      metadata: key -> number, truth value, string or list of them.
      tensors: GGUF's name -> GGUFTensor.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """The header of a file, with those of its other parts where it is the first of several.

    Raises:
      FileNotFoundError: the file or another part is missing.
      ValueError: no GGUF file, another version, a damaged or cut one, or a part that is not the first; one line.
    """
    state = path.stat()
    return _read_all(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _read_all(path: Path, modified: int, size: int) -> GGUFHeader:
    header = _read_one(path)
    name, count = _SPLIT.fullmatch(path.name), header.metadata.get("split.count", 1)
    if not isinstance(count, int) or not 1 <= count < 10**5:
        raise ValueError(f"{path}: split.count must be a number of files, got {count!r:.40}")
    if count == 1:
        return header
    if name is None or int(name[3]) != count:
        raise ValueError(f"{path} is one of {count} files, and its name does not end in -00001-of-{count:05}.gguf")
    if int(name[2]) != 1:
        raise ValueError(f"{path} is part {int(name[2])} of {count}; give the first, {name[1]}-00001-of-{name[3]}.gguf")
    tensors = dict(header.tensors)
    for number in range(2, count + 1):
        part = path.with_name(f"{name[1]}-{number:05}-of-{name[3]}.gguf")
        if not part.is_file():
            raise FileNotFoundError(f"{part} is missing; {path} is the first of {count} files")
        more = _read_one(part)
        if more.metadata.get("split.count") != count or more.metadata.get("split.no") != number - 1:
            raise ValueError(f"{part} is not part {number} of {path}; copy all {count} files anew")
        twice = next((tensor for tensor in more.tensors if tensor in tensors), None)
        if twice is not None:
            raise ValueError(f"{part}: tensor {twice!r:.100} is in an earlier part too; copy all {count} files anew")
        tensors |= more.tensors
    wanted = header.metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise ValueError(f"{path} and its other parts hold {len(tensors)} tensors of {wanted!r:.40}; copy them anew")
    return GGUFHeader(header.metadata, tensors)


def _read_one(path: Path) -> GGUFHeader:
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"{path} is no GGUF file: it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(path, memoryview(data)).header()
        except _Cut as cut:
            raise ValueError(f"{path} is damaged: {cut}; copy it anew") from None


class _Cut(Exception):
    """What is wrong with a header."""


class _Reader:
    """Reads a header from its start; every count is compared with the bytes that are left before it is used."""

    def __init__(self, path: Path, data: memoryview):
        self._path, self._data, self._at = path, data, 0

    def header(self) -> GGUFHeader:
        try:
            return self._header()
        finally:
            self._data.release()

    def _header(self) -> GGUFHeader:
        if bytes(self._data[:4]) != MAGIC:
            raise ValueError(f"{self._path} is no GGUF file: it begins with {bytes(self._data[:4])!r}")
        version = int.from_bytes(self._data[4:8], "little")
        if version not in _VERSIONS:
            swapped = version.bit_length() > 16
            what = "a big-endian GGUF file" if swapped else f"a GGUF file of version {version}"
            raise ValueError(f"{self._path} is {what}; known: little-endian files of versions 2 and 3")
        self._at = 8
        tensors, fields = self._count(_MOST_TENSORS, "tensors"), self._count(_MOST_FIELDS, "fields")
        metadata: dict[str, Any] = {}
        for _ in range(fields):
            name = self._string()
            if name in metadata:
                raise _Cut(f"the field {name!r:.80} is there twice")
            metadata[name] = self._value(self._scalar("I"), name)
        entries = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment % 8:
            raise _Cut(f"general.alignment is {alignment!r:.40}")
        return GGUFHeader(metadata, self._placed(entries, -(-self._at // alignment) * alignment, alignment))

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise _Cut(f"byte {self._at} of the header asks for {size} more than the file has")
        self._at += size
        return self._data[self._at - size : self._at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _count(self, most: int, what: str) -> int:
        count = self._scalar("Q")
        if count > most:
            raise _Cut(f"it claims {count} {what}")
        return count

    def _string(self) -> str:
        try:
            return str(self._take(self._scalar("Q")), "utf-8")
        except UnicodeDecodeError:
            raise _Cut(f"the text that ends at byte {self._at} is not UTF-8") from None

    def _value(self, kind: int, name: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise _Cut(f"the field {name!r:.80} is of an unknown type, {kind}")
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner == _STRING:
            if count * 8 > len(self._data) - self._at:
                raise _Cut(f"the list {name!r:.80} claims {count} texts")
            return [self._string() for _ in range(count)]
        if inner not in _SCALARS:
            raise _Cut(f"the list {name!r:.80} holds values of type {inner}")
        code = _SCALARS[inner]
        return list(struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize("<" + code))))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, axes = self._string(), self._scalar("I")
        if not 1 <= axes <= _MOST_AXES:
            raise _Cut(f"tensor {name!r:.80} has {axes} axes")
        shape = tuple(reversed([self._scalar("Q") for _ in range(axes)]))
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _placed(self, entries: list, start: int, alignment: int) -> dict[str, GGUFTensor]:
        """Where each tensor's bytes lie: inside the file, whole blocks, and none over another."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        kinds = {kind.value: (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
        placed: dict[str, GGUFTensor] = {}
        for name, shape, number, offset in entries:
            if name in placed:
                raise _Cut(f"tensor {name!r:.80} is there twice")
            if number not in kinds:
                raise _Cut(f"tensor {name!r:.80} is of an unknown type, {number}")
            kind, block, block_bytes = kinds[number]
            if 0 in shape or shape[-1] % block:
                raise _Cut(f"tensor {name!r:.80} has shape {list(shape)}, which {kind} cannot hold")
            nbytes = math.prod(shape) // block * block_bytes
            if offset % alignment or start + offset + nbytes > len(self._data):
                raise _Cut(f"the bytes of tensor {name!r:.80} do not lie in the file")
            placed[name] = GGUFTensor(self._path, shape, kind, start + offset, nbytes, block, block_bytes)
        end, before = 0, ""
        for name, tensor in sorted(placed.items(), key=lambda item: item[1].start):
            if tensor.start < end:
                raise _Cut(f"tensors {before!r:.80} and {name!r:.80} share bytes")
            end, before = tensor.start + tensor.nbytes, name
        return placed
