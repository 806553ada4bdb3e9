"""Suffix arrays over token ids, one a shard, as they lie on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from rapid_jax.databases.arrays import map_array

SENTINEL = -1  # stands behind every document; below every token id, so that a text comes before its continuations
ABOVE = 2**31 - 1  # above every token id


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Shard:
    """A part of a corpus, as jax arrays on a device or as numpy arrays that a file is mapped to.

    Attributes:
      tokens: int32 [N], documents one after another, the sentinel behind each.
      suffixes: int32 [N], the positions in the order of the texts that begin there.
    """

    tokens: jax.Array | np.ndarray
    suffixes: jax.Array | np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes on the device or on disk."""
        return self.tokens.nbytes + self.suffixes.nbytes


def map_shards(directory: Path, count: int) -> tuple[Shard, ...]:
    """The first shards of a directory as numpy arrays that their files are mapped to; nothing is read yet.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged.
    """
    shards = []
    for number in range(count):
        names = (tokens_file(number), suffixes_file(number))
        tokens, suffixes = (map_array(directory / name, 1) for name in names)
        if len(tokens) != len(suffixes) or not np.array_equal(tokens[-1:], [SENTINEL]):
            raise ValueError(f"{directory} is damaged: {' and '.join(names)} do not fit; make the database anew")
        shards.append(Shard(tokens, suffixes))
    return tuple(shards)


def tokens_file(number: int) -> str:
    """Name of the file of a shard's tokens."""
    return f"shard-{number:05}.tokens.npy"


def suffixes_file(number: int) -> str:
    """Name of the file of a shard's suffix array."""
    return f"shard-{number:05}.suffixes.npy"
