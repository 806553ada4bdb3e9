"""Counts the n-grams of texts and makes the table of the most common ones (HD, arXiv 2502.05609)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rapid_jax.database_building.arrays import save_array
from rapid_jax.databases.limits import KEPT, NGRAM, VALUES
from rapid_jax.databases.ngram_table import OFFSETS_FILE, VALUES_FILE, NgramTable


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
