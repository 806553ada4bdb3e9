"""Causal attention of a long block on itself, tile by tile, forward and backward (FlashAttention-2, arXiv 2307.08691).

No more than a tile of scores exists at once, and tiles above the diagonal are never computed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.attention.online_softmax import MASKED, nothing_seen, result, see

BLOCK = 512  # tokens of a tile, at most


def causal(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attention of every token to itself and those before it; differentiable once, in reverse mode.

    Args:
      q: [B,K,G,T,H], scaled.
      k, v: [B,K,T,H].

    Returns:
      (float32 [B,K,G,T,H], log-sum-exp float32 [B,K,G,T]).
    """
    batch, kv_heads, group, tokens, head_dim = q.shape
    blocks = -(-tokens // BLOCK)
    size = -(-tokens // blocks)
    padding = blocks * size - tokens  # at the end, where no token sees it

    def tiles(x: jax.Array) -> jax.Array:  # [B,K,...,T,H] -> [B*K,blocks,...,size,H]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])
        x = x.reshape(batch * kv_heads, *x.shape[2:-2], blocks, size, head_dim)
        return jnp.moveaxis(x, -3, 1)

    rows = tiles(q).reshape(batch * kv_heads, blocks, group * size, head_dim)
    out, lse = jax.lax.map(lambda head: _head(*head), (rows, tiles(k), tiles(v)))

    def untiled(x: jax.Array) -> jax.Array:  # [B*K,blocks,G*size,...] -> [B,K,G,T,...]
        x = jnp.moveaxis(x.reshape(batch, kv_heads, blocks, group, size, *x.shape[3:]), 2, 3)
        return x.reshape(batch, kv_heads, group, blocks * size, *x.shape[5:])[:, :, :, :tokens]

    return untiled(out), untiled(lse)


@jax.custom_vjp
def _head(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One KV head: q [N,R,H] of R = G * size rows a tile, k and v [N,size,H] -> ([N,R,H], [N,R])."""
    seen = _diagonal(q, k)

    def query_tile(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = nothing_seen(*q.shape[1:])
        before = jax.lax.fori_loop(0, i, lambda j, running: see(running, _scores(q[i], k[j]), v[j]), start)
        return result(see(before, jnp.where(seen, _scores(q[i], k[i]), MASKED), v[i]))

    return jax.lax.map(query_tile, jnp.arange(q.shape[0]))


def _head_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    out, lse = _head(q, k, v)
    return (out, lse), (q, k, v, out, lse)


def _head_backward(saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights come back from the saved log-sum-exp; of a score s the gradient is w (dw - sum(w dw) + dlse)."""
    q, k, v, out, lse = saved
    out_bar, lse_bar = cotangents
    seen, lse = _diagonal(q, k), lse[..., None]
    common = jnp.sum(out * out_bar, axis=-1, keepdims=True) - lse_bar[..., None]
    out_bar = out_bar.astype(v.dtype)

    def key_tile(q_bar: jax.Array, j: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        def add(i: jax.Array, weights: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            k_bar, v_bar, q_bar = carry
            scores_bar = weights * (_product("rh,sh->rs", out_bar[i], v[j]) - common[i])
            scores_bar, weights = scores_bar.astype(q.dtype), weights.astype(v.dtype)
            k_bar = k_bar + _product("rs,rh->sh", scores_bar, q[i])
            v_bar = v_bar + _product("rs,rh->sh", weights, out_bar[i])
            return k_bar, v_bar, q_bar.at[i].add(_product("rs,sh->rh", scores_bar, k[j]))

        def below(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return add(i, jnp.exp(_scores(q[i], k[j]) - lse[i]), carry)

        start = (jnp.zeros(k.shape[1:]), jnp.zeros(v.shape[1:]), q_bar)
        on = add(j, jnp.where(seen, jnp.exp(_scores(q[j], k[j]) - lse[j]), 0.0), start)
        k_bar, v_bar, q_bar = jax.lax.fori_loop(j + 1, q.shape[0], below, on)
        return q_bar, (k_bar, v_bar)

    q_bar, (k_bar, v_bar) = jax.lax.scan(key_tile, jnp.zeros(q.shape), jnp.arange(q.shape[0]))
    return q_bar.astype(q.dtype), k_bar.astype(k.dtype), v_bar.astype(v.dtype)


_head.defvjp(_head_forward, _head_backward)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return _product("rh,sh->rs", q, k)


def _diagonal(q: jax.Array, k: jax.Array) -> jax.Array:
    """Bool [R,size]: what the rows of a tile see of the keys of the same tokens."""
    size = k.shape[1]
    return jnp.tile(jnp.tril(jnp.ones((size, size), bool)), (q.shape[1] // size, 1))
