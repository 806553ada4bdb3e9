"""The context-dependent database Dc: for every token the n-grams that lately began with it, least recently used out.

A table is int32 [B,V,N,n-1]: for each row and key token up to N continuations, the latest first; -1 fills free places.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

FREE = -1


def build_table(tokens: Sequence[int], *, vocab_size: int, values: int, ngram: int) -> np.ndarray:
    """One row's table with all n-grams of a text, as if they had been inserted one after another.

    The N most recently used values of a key are the N distinct ones whose last occurrence is latest, so that one sort
    finds them all.

    Args:
      tokens: the text.
      vocab_size: V.
      values: N, continuations kept for a key.
      ngram: n, tokens of an n-gram, its key included.

    Returns:
      int32 [V,N,n-1].
    """
    table = np.full((vocab_size, values, ngram - 1), FREE, np.int32)
    if len(tokens) < ngram:
        return table
    grams = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens, np.int32), ngram)
    order = np.lexsort([np.arange(len(grams)), *grams.T[::-1]])
    ordered = grams[order]
    last = np.append(np.any(ordered[1:] != ordered[:-1], axis=1), True)  # the latest of each distinct n-gram
    position = order[last]
    position = position[np.lexsort([-position, grams[position, 0]])]
    keys = grams[position, 0]
    rank = np.arange(len(keys)) - np.searchsorted(keys, keys)
    kept = rank < values
    table[keys[kept], rank[kept]] = grams[position[kept], 1:]
    return table


def extend_table(table: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """A row's table after the n-grams of some more text, inserted one after another.

    Args:
      table: int32 [V,N,n-1], on the host; it is left as it is.
      tokens: the text, with the n - 1 tokens before what is new, so that no n-gram is left out.

    Returns:
      int32 [V,N,n-1].
    """
    table = table.copy()
    for start in range(len(tokens) - table.shape[2]):
        key, new = tokens[start], np.asarray(tokens[start + 1 : start + 1 + table.shape[2]], np.int32)
        held = table[key]
        same = np.flatnonzero((held == new).all(axis=1))
        out = same[0] if len(same) else len(held) - 1
        held[1 : out + 1] = held[:out].copy()
        held[0] = new
    return table


def insert(table: jax.Array, grams: jax.Array, valid: jax.Array) -> jax.Array:
    """Inserts n-grams, the last one becoming the latest.

    Args:
      table: int32 [B,V,N,n-1].
      grams: int32 [B,M,n].
      valid: bool [B,M], which of them are inserted.

    Returns:
      The new table; a value that was there moves to the front, a new one pushes out the least recently used.
    """
    batch, vocab_size, values, _ = table.shape
    row, place = jnp.arange(batch), jnp.arange(values)

    def one(index: jax.Array, table: jax.Array) -> jax.Array:
        gram, use = grams[:, index], valid[:, index]
        held, new = table[row, gram[:, 0]], gram[:, 1:]
        same = jnp.all(held == new[:, None], axis=-1)
        out = jnp.where(jnp.any(same, axis=1), jnp.argmax(same, axis=1), values - 1)
        moved = jnp.concatenate([new[:, None], held[:, :-1]], axis=1)
        held = jnp.where((place[None, :] <= out[:, None])[..., None], moved, held)
        return table.at[row, jnp.where(use, gram[:, 0], vocab_size)].set(held, mode="drop")

    return jax.lax.fori_loop(0, grams.shape[1], one, table)


def lookup(table: jax.Array, keys: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The latest continuations of each row's key.

    Args:
      table: int32 [B,V,N,n-1].
      keys: int32 [B].
      count: candidates at most.

    Returns:
      (tokens int32 [B,min(count,N),n-1], lengths int32 [B,min(count,N)]); length 0 is no candidate.
    """
    held = table[jnp.arange(table.shape[0]), keys][:, :count]
    lengths = jnp.where(held[..., 0] == FREE, 0, held.shape[-1])
    return jnp.maximum(held, 0), lengths.astype(jnp.int32)
