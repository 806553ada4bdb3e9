"""int4 keys and values: symmetric, rounded to the nearest of 15 steps, with a float32 scale for each head and token.

A few channels of the keys are much larger than the others (KIVI, arXiv 2402.02750) and would leave them no steps. So
keys are rounded in another basis, in which each number has a share of every channel (QuaRot, arXiv 2404.00456, section
4), and attention takes its queries into the same basis: products of both stay what they are. QuaRot's basis is a
Hadamard matrix. This is that of the discrete cosine transform, which there is for heads of any size.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import dct

from models.formats.widening import times

STEPS = 7  # on each side of zero


class Int4KV:
    """Keys and values int4 [Bc,K,S,H], k_scale and v_scale float32 [Bc,K,S]."""

    name = "int4"
    stored = jnp.int4

    @staticmethod
    def quantize_layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        steps = in_steps(k, v)
        return {**steps, **{name: jnp.round(steps[name]).astype(jnp.int4) for name in ("k", "v")}}

    @staticmethod
    @functools.cache
    def key_basis(head_dim: int) -> np.ndarray:
        return dct(np.eye(head_dim), norm="ortho").astype(np.float32)

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        return head_dim / 2 + 4


def in_steps(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
    """Keys and values [Bc,K,S,H] in steps from -STEPS to STEPS, not rounded, float32, and their scales by field."""
    (k, k_scale), (v, v_scale) = map(_scaled, (times(k, Int4KV.key_basis(k.shape[3]), jnp.float32), v))
    return dict(k=k, v=v, k_scale=k_scale, v_scale=v_scale)


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=3) / STEPS
    return x / jnp.where(scale > 0, scale, 1)[..., None], scale  # what is 0 everywhere stays 0


KV = Int4KV()
