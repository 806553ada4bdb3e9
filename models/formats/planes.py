"""Keys and values of eight bits in two planes of four, of which the upper one alone is a cache of its own.

Numbers are rounded to int4 first, and what that leaves is the lower plane. A drafter that reads the upper plane reads
half the bytes of its target, and needs no cache beside it (QuantSpec, arXiv 2502.10424).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.formats import PLANE
from models.formats.int4_kv import Int4KV, in_steps


class PlanesKV(Int4KV):
    """As Int4KV, and k_rest and v_rest int4 [Bc,K,S,H], whose steps are PLANE times as fine."""

    name = "planes"

    @staticmethod
    def quantize_layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        steps = in_steps(k, v)
        (k, k_rest), (v, v_rest) = _split(steps["k"]), _split(steps["v"])
        return {**steps, **dict(k=k, v=v, k_rest=k_rest, v_rest=v_rest)}

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        return head_dim / 2 + super().bytes_per_head(head_dim, itemsize)


def _split(steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    upper = jnp.round(steps)
    lower = jnp.clip(jnp.round((steps - upper) * PLANE), -PLANE // 2, PLANE // 2 - 1)
    return upper.astype(jnp.int4), lower.astype(jnp.int4)


KV = PlanesKV()
