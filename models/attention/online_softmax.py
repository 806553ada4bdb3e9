"""Softmax over keys that come a block at a time: the running maximum, sum and output of every row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to see merges with weight zero instead of NaN

Running = tuple[jax.Array, jax.Array, jax.Array]  # maximum [R,1], sum [R,1], weighted values [R,H], all float32


def nothing_seen(rows: int, head_dim: int) -> Running:
    """Before the first block."""
    return jnp.full((rows, 1), MASKED), jnp.zeros((rows, 1)), jnp.zeros((rows, head_dim))


def see(running: Running, scores: jax.Array, values: jax.Array) -> Running:
    """After one more block: float32 scores [R,S], MASKED where a row must not look, and values [S,H]."""
    top, total, out = running
    new_top = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
    weights, shrink = jnp.exp(scores - new_top), jnp.exp(top - new_top)
    new = jnp.einsum("rs,sh->rh", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return new_top, total * shrink + jnp.sum(weights, axis=-1, keepdims=True), out * shrink + new


def result(running: Running) -> tuple[jax.Array, jax.Array]:
    """Output [R,H] and log-sum-exp [R]; of rows that saw nothing 0 and about MASKED."""
    top, total, out = running
    total = jnp.maximum(total, 1e-37)
    return out / total, (top + jnp.log(total))[:, 0]
