"""The model-dependent database Dm: n-grams that a model often writes, found by their first token.

They are counted by document frequency in text that the model itself generated (HD, arXiv 2502.05609).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models.tokenizer import Tokenizer
from rapid_jax.databases.arrays import map_array, save_array
from rapid_jax.databases.limits import KEPT, NGRAM, VALUES
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


def count_ngrams(
    documents: Iterable[Sequence[int]], n: int = NGRAM, *, keep: int = KEPT
) -> tuple[np.ndarray, np.ndarray]:
    """The most common n-grams of documents, each counted once a document.

    Takes about 70 bytes of memory a token for n = 5, and one sort of all n-grams.

    Args:
      documents: token ids; one shorter than n has no n-gram.
      n: tokens of an n-gram.
      keep: n-grams kept at most.

    Returns:
      (n-grams int32 [E,n], counts int32 [E]): the most common first, of equally common ones lower token ids first.
    """
    parts = [np.asarray(document, np.int32) for document in documents]
    lengths = np.array([len(part) for part in parts], np.int64)
    tokens = np.concatenate([*parts, np.zeros(0, np.int32)])
    ends = np.repeat(np.cumsum(lengths), lengths)
    start = np.flatnonzero(np.arange(len(tokens)) + n <= ends)  # no n-gram crosses from one document into the next
    owner = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)[start]
    columns = [tokens[start + offset] for offset in range(n)]
    order = np.lexsort([owner, *reversed(columns)])
    columns = [column[order] for column in columns]
    another = _changes(columns)
    groups = np.flatnonzero(another)
    fresh = another | _changes([owner[order]])  # the first time that its document has it
    counts = np.add.reduceat(fresh, groups, dtype=np.int32) if len(groups) else np.zeros(0, np.int32)
    best = np.argsort(-counts, kind="stable")[:keep]  # n-grams are in the order of their token ids
    return np.stack([column[groups[best]] for column in columns], axis=1), counts[best]


def make_table(ngrams: np.ndarray, *, vocab_size: int, values_per_key: int = VALUES) -> NgramTable:
    """The table of n-grams whose first token is the key.

    Args:
      ngrams: int32 [E,n], different from each other, in the order in which a key's continuations shall come.
      vocab_size: V, of the model's embeddings.
      values_per_key: continuations of one key at most; its later ones are left out.

    Raises:
      ValueError: a token id outside the vocabulary.
    """
    if ngrams.size and not 0 <= ngrams.min() <= ngrams.max() < vocab_size:
        raise ValueError(f"token ids from {ngrams.min()} to {ngrams.max()} do not fit a vocabulary of {vocab_size}")
    ordered = ngrams[np.argsort(ngrams[:, 0], kind="stable")]
    keys = ordered[:, 0]
    rank = np.arange(len(keys)) - np.searchsorted(keys, keys)
    kept = ordered[rank < values_per_key]
    offsets = np.searchsorted(kept[:, 0], np.arange(vocab_size + 1))
    return NgramTable(jnp.asarray(offsets, jnp.int32), jnp.asarray(kept[:, 1:], jnp.int32))


def save_table(directory: Path, table: NgramTable) -> None:
    """Writes the files that `NgramTable.open` reads beside the manifest."""
    save_array(directory / OFFSETS_FILE, np.asarray(table.offsets))
    save_array(directory / VALUES_FILE, np.asarray(table.values))


def _changes(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Where a row of sorted columns differs from the one before it, bool [E]; the first row does."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changed
