"""Sorts a corpus into suffix arrays, shard by shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pydivsufsort import divsufsort

from rapid_jax.database_building.arrays import save_array
from rapid_jax.databases.limits import MAX_SHARD_TOKENS, SHARD_TOKENS
from rapid_jax.databases.shards import SENTINEL, suffixes_file, tokens_file


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_shards` wrote; sentinels are no tokens."""

    documents: int
    tokens: int
    shards: int


def sort_suffixes(tokens: ArrayLike) -> np.ndarray:
    """The suffix array int32 [N] of tokens int32 [N]: positions in the order of the texts from there to the end.

    Takes about 45 bytes of memory a token, twice as much above 2**29 tokens.
    """
    values = np.asarray(tokens, np.int32)
    if not values.size:
        return np.zeros(0, np.int32)
    return divsufsort(values).astype(np.int32, copy=False)


def write_shards(documents: Iterable[Sequence[int]], directory: Path, *, shard_tokens: int = SHARD_TOKENS) -> Written:
    """Sorts a corpus shard by shard; no more than one shard is in memory.

    A document goes into one shard whole. Only one that is longer than a shard is cut.

    Args:
      documents: token ids, none below 0; empty ones are left out.
      directory: where the files are written.
      shard_tokens: tokens of a shard at most, sentinels included, in [2, MAX_SHARD_TOKENS].

    Raises:
      ValueError: shard_tokens out of range, a token id below 0, or no tokens at all.
    """
    if not 2 <= shard_tokens <= MAX_SHARD_TOKENS:
        raise ValueError(f"shard_tokens must be in [2, {MAX_SHARD_TOKENS}], got {shard_tokens}")
    num_documents = num_tokens = num_shards = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_documents, num_tokens
        for document in documents:
            ids = np.asarray(document, np.int32)
            if ids.size:
                if ids.min() < 0:
                    raise ValueError(f"document {num_documents + 1} has the token id {ids.min()}; ids are at least 0")
                num_documents, num_tokens = num_documents + 1, num_tokens + ids.size
                yield ids

    for tokens in _cut(counted(), shard_tokens):
        save_array(directory / tokens_file(num_shards), tokens)
        save_array(directory / suffixes_file(num_shards), sort_suffixes(tokens))
        num_shards += 1
    if not num_shards:
        raise ValueError("the corpus holds no tokens: name files with text in them")
    return Written(num_documents, num_tokens, num_shards)


def remove_shards(directory: Path) -> None:
    """Removes what an unfinished build has left behind."""
    for path in directory.glob("shard-*.npy"):
        path.unlink()


def _cut(documents: Iterable[np.ndarray], shard_tokens: int) -> Iterator[np.ndarray]:
    """The tokens of each shard, a sentinel behind every document or piece of one."""
    end = np.array([SENTINEL], np.int32)
    parts: list[np.ndarray] = []
    room = shard_tokens
    for document in documents:
        for start in range(0, len(document), shard_tokens - 1):
            piece = document[start : start + shard_tokens - 1]
            if len(piece) + 1 > room:
                yield np.concatenate(parts)
                parts, room = [], shard_tokens
            parts += [piece, end]
            room -= len(piece) + 1
    if parts:
        yield np.concatenate(parts)
