"""int4 keys and values: symmetric, rounded to the nearest of 15 steps, with a float32 factor for each head and token.

Channels of keys differ much and stay alike from token to token (KIVI, arXiv 2402.02750). Keys have a second factor, one
for each channel, by which attention multiplies its queries once, whatever the number of slots. With both, neither a
large channel nor a large token takes the precision of the others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

STEPS = 7  # on each side of zero


class Int4KV:
    """Keys and values int4 [Bc,K,S,H], k_scale and v_scale float32 [Bc,K,S], k_channels float32 [Bc,K,1,1,H]."""

    name = "int4"
    stored = jnp.int4

    @staticmethod
    def quantize_layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        steps = in_steps(k, v)
        return {**steps, **{name: jnp.round(steps[name]).astype(jnp.int4) for name in ("k", "v")}}

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        return head_dim / 2 + 4


def in_steps(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
    """Keys and values [Bc,K,S,H] in steps from -STEPS to STEPS, not rounded, float32, and their factors by field.

    A channel's factor is the mean size of its numbers. It matters beside those of the other channels alone.
    """
    keys = k.astype(jnp.float32)
    channels = jnp.mean(jnp.abs(keys), axis=2, keepdims=True)
    even = keys / jnp.where(channels > 0, channels, 1)  # what is 0 everywhere stays 0
    (k, k_scale), (v, v_scale) = _scaled(even), _scaled(v.astype(jnp.float32))
    return dict(k=k, v=v, k_scale=k_scale, v_scale=v_scale, k_channels=channels[:, :, None])


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    scale = jnp.max(jnp.abs(x), axis=3) / STEPS
    return x / jnp.where(scale > 0, scale, 1)[..., None], scale


KV = Int4KV()
