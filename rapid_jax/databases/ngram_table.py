"""The model-dependent database Dm: n-grams that a model often writes, found by their first token.

They are counted by document frequency in text that the model itself generated (HD, arXiv 2502.05609).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models.tokenizer import Tokenizer
from rapid_jax.databases.arrays import map_array
from rapid_jax.databases.manifest import check_manifest

OFFSETS_FILE, VALUES_FILE = "offsets.npy", "values.npy"


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class NgramTable:
    """The continuations of every token, the most common first.

    Attributes:
      offsets: int32 [V+1]; those of token t are values[offsets[t]:offsets[t+1]].
      values: int32 [E,m], m = n - 1.
    """

    offsets: jax.Array
    values: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.offsets.nbytes + self.values.nbytes

    @classmethod
    def open(cls, directory: Path | str, tokenizer: Tokenizer) -> NgramTable:
        """The table of a finished database of kind "model", on the default device.

        Raises:
          FileNotFoundError: there is no such database, or one of its files is missing.
          ValueError: another kind, another tokenizer, or a damaged file.
        """
        directory = Path(directory)
        manifest = check_manifest(directory, "model", tokenizer)
        offsets, values = map_array(directory / OFFSETS_FILE, 1), map_array(directory / VALUES_FILE, 2)
        if values.shape != (manifest.ngrams, manifest.order - 1) or not np.array_equal(offsets[-1:], [len(values)]):
            raise ValueError(f"{directory} is damaged: its tables do not fit its manifest; make the database anew")
        return cls(jnp.asarray(offsets), jnp.asarray(values))


def lookup(table: NgramTable, keys: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """What most often followed a token in the model's own text.

    Args:
      table: with continuations of m tokens.
      keys: int32 [B], the last token of each row; an id outside the vocabulary has no continuation.
      count: candidates a row.

    Returns:
      (tokens int32 [B,count,m], lengths int32 [B,count]), the most frequent first; a length of 0 is no candidate, and
      its tokens are 0.
    """
    vocab_size, (entries, length) = table.offsets.shape[0] - 1, table.values.shape
    known = (keys >= 0) & (keys < vocab_size)
    key = jnp.where(known, keys, 0)
    index = table.offsets[key][:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]
    found = known[:, None] & (index < table.offsets[key + 1][:, None])
    if not entries:
        return jnp.zeros((*index.shape, length), jnp.int32), jnp.zeros(index.shape, jnp.int32)
    tokens = table.values[jnp.minimum(index, entries - 1)]
    return jnp.where(found[..., None], tokens, 0), jnp.where(found, length, 0).astype(jnp.int32)
