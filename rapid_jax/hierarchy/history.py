"""What a row has read and said, searched for its own last tokens: prompt lookup, the most local database of all."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class History:
    """Token ids behind a length; what lies beyond is garbage.

    Attributes:
      tokens: int32 [B,S].
      length: int32 [B].
    """

    tokens: jax.Array
    length: jax.Array


def append(history: History, tokens: jax.Array, count: jax.Array) -> History:
    """Adds the first count [B] of tokens [B,M] to each row; writes past the capacity are dropped."""
    offset = jnp.arange(tokens.shape[1])[None, :]
    slots = jnp.where(offset < count[:, None], history.length[:, None] + offset, history.tokens.shape[1])
    rows = jnp.arange(tokens.shape[0])[:, None]
    return History(history.tokens.at[rows, slots].set(tokens, mode="drop"), history.length + count)


def lookup(
    history: History, recent: jax.Array, count: int, length: int, *, min_match: int = 1
) -> tuple[jax.Array, jax.Array]:
    """What followed the last tokens where they stood before: the longest match first, then the latest.

    Where a candidate runs into the end of the history it goes on with its own beginning, as text that repeats itself
    does; otherwise a repetition, whose latest match lies at the very end, would give one token a step.

    Args:
      history: not longer than what precedes the token to come; it may lack the newest tokens.
      recent: int32 [B,M], the last tokens before the one to come; matches of M, M - 1, ..., min_match of them count.
      count: candidates at most.
      length: tokens of a candidate.
      min_match: shorter matches do not count.

    Returns:
      (tokens int32 [B,count,length], lengths int32 [B,count]); length 0 is no candidate.
    """
    batch, slots = history.tokens.shape
    position = jnp.arange(slots)[None, :]
    agrees = jnp.ones((batch, slots), bool)
    matched = jnp.zeros((batch, slots), jnp.int32)
    for back in range(1, recent.shape[1] + 1):
        before = jnp.pad(history.tokens[:, : slots - back], ((0, 0), (back, 0)), constant_values=-1)
        agrees = agrees & (before == recent[:, -back][:, None])
        matched = matched + agrees
    found = (matched >= min_match) & (position < history.length[:, None])
    score = jnp.where(found, matched * slots + position, -1)
    candidates, lengths = [], []
    for _ in range(count):
        best = jnp.argmax(score, axis=1)
        top = jnp.take_along_axis(score, best[:, None], axis=1)[:, 0]
        period = jnp.maximum(history.length - best, 1)[:, None]
        index = best[:, None] + jnp.arange(length)[None, :] % period
        candidates.append(jnp.take_along_axis(history.tokens, jnp.minimum(index, slots - 1), axis=1))
        lengths.append(jnp.where(top < 0, 0, length))
        score = jnp.where(position == best[:, None], -1, score)
    return jnp.stack(candidates, axis=1), jnp.stack(lengths, axis=1).astype(jnp.int32)
