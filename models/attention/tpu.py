"""The TPU backend: a Pallas kernel for every cache and for the causal block, plain XLA for the small blocks in flight.

The kernel is our own (`flash_tpu`) for prefill too. JAX's splash attention gives a log-sum-exp, but its masks are
static: a length that is known when the program runs needs segment ids over all slots, and then every slot of the cache
is read and computed, in use or not; it declares no cost either. JAX's flash attention has no grouped queries and keeps
its sums private. Neither reads int8 or int4.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from models.attention import xla
from models.attention.flash_tpu import flash

HEAD_DIM_MAX = 256


def attend_segment(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array | None,
    mask: jax.Array | None,
    *,
    interpret: bool = False,
    **stored: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As models.attention.xla.attend_segment, which takes the blocks in flight that have a mask or few rows.

    Such a block is as long as its queries, its scores are kilobytes. Gradients of the causal form are those of
    models.attention.causal.

    Args:
      interpret: runs the kernel on any platform, slowly.

    Raises:
      NotImplementedError: a head_dim above 256, or keys of a dtype that is neither q's nor int8 or int4.
    """
    batch, kv_heads, group, tokens, head_dim = q.shape
    if head_dim > HEAD_DIM_MAX:
        raise NotImplementedError(f"attention backend tpu takes a head_dim up to {HEAD_DIM_MAX}, got {head_dim}")
    known = (jnp.int8, jnp.int4) if stored else (q.dtype,)
    if k.dtype not in known or q.dtype not in (jnp.bfloat16, jnp.float32):
        raise NotImplementedError(
            f"attention backend tpu takes bfloat16 or float32 queries with keys of the same dtype, or int8 or int4 "
            f"with scales, got {q.dtype} and {k.dtype}"
        )
    rows = (batch if k.shape[0] == 1 else 1) * group * tokens
    if length is None and (mask is not None or rows <= xla.FEW_ROWS):
        return xla.attend_segment(q, k, v, length, mask, **stored)
    if length is None:
        if stored:
            raise NotImplementedError("attention backend tpu takes no int8 or int4 keys in a causal block")
        return _causal(interpret, q, k, v)
    scaled = q * jnp.asarray(head_dim**-0.5, q.dtype)
    # a cache is seen alike by all tokens of a group, and by all rows of a batch that share it: one row axis
    if k.shape[0] == batch:
        flat = scaled.reshape(batch, kv_heads, 1, group * tokens, head_dim)
    else:
        flat = jnp.swapaxes(scaled, 0, 1).reshape(1, kv_heads, 1, batch * group * tokens, head_dim)
    kept: dict[str, Any] = stored
    out, lse = flash(flat, k, v, length, interpret=interpret, **kept)
    if k.shape[0] == batch:
        return out.reshape(q.shape), lse.reshape(q.shape[:-1])
    out = jnp.swapaxes(out.reshape(kv_heads, batch, group, tokens, head_dim), 0, 1)
    return out, jnp.swapaxes(lse.reshape(kv_heads, batch, group, tokens), 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _causal(interpret: bool, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The causal block q [B,K,G,T,H] on itself, k and v [B,K,T,H]."""
    scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    whole = jnp.full((q.shape[0],), k.shape[2], jnp.int32)
    return flash(scaled, k, v, whole, causal=True, interpret=interpret)


def _causal_forward(interpret: bool, *qkv: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    return _causal(interpret, *qkv), qkv


def _causal_backward(interpret: bool, qkv: tuple[jax.Array, ...], cotangents: Any) -> tuple[jax.Array, ...]:
    return jax.vjp(lambda q, k, v: xla.attend_segment(q, k, v, None, None), *qkv)[1](cotangents)


_causal.defvjp(_causal_forward, _causal_backward)
