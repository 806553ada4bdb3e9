"""The reference attention backend, in plain XLA: three forms of one computation, chosen by shape alone.

`attend_segment` is the contract that every other backend is tested against. Layouts are head-major and a group's heads
and tokens are flattened into one row axis, so that each contraction is one matrix product a KV head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.attention.causal import causal
from models.attention.online_softmax import MASKED, Running, nothing_seen, result, see
from models.formats.widening import restore, widen

FEW_ROWS = 128  # up to here the scores of a whole segment are held at once
KEYS_FIRST_ROWS = 4  # up to here XLA:CPU is fastest with the long keys as the first operand, above with the rows
KEY_BLOCK = 1024


def attend_segment(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array | None,
    mask: jax.Array | None,
    k_scale: jax.Array | None = None,
    v_scale: jax.Array | None = None,
    k_rest: jax.Array | None = None,
    v_rest: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of q over one segment.

    Keys and values of a narrow format (models.formats) are widened inside the products, so that memory is read as they
    are stored: scores are multiplied by k_scale behind their product, weights by v_scale before theirs.

    Args:
      q: [B,K,G,T,H], the G query heads of each KV head.
      k, v: [Bs,K,S,H] with Bs of B or 1.
      length: int32 [Bs], slots in use, or None.
      mask: bool [T,S] or [B,T,S], what each token may see of the block; None with length None is causal (S = T).
      k_scale, v_scale: None, or float32 [Bs,K,S], what each slot's numbers are multiplied by; needs a length.
      k_rest, v_rest: None, or the lower planes of k and v.

    Returns:
      (float32 [B,K,G,T,H], log-sum-exp float32 [B,K,G,T]).
    """
    batch, kv_heads, group, tokens, head_dim = q.shape
    q = q * jnp.asarray(head_dim**-0.5, q.dtype)
    shared = k.shape[0] == 1 and batch > 1
    if shared:  # fold the batch into the rows: the shared keys are read once for all of them
        q = q.transpose(1, 0, 2, 3, 4).reshape(1, kv_heads, batch * group, tokens, head_dim)
    if q.shape[2] * tokens <= FEW_ROWS or mask is not None:  # a mask is of a block, which is no longer than its rows
        visible = _visible(length, mask, q.shape[2], tokens, k.shape[2])
        out, lse = _few_rows(q, k, v, visible, k_scale, v_scale, k_rest, v_rest)
    elif length is None:
        out, lse = causal(q, k, v)
    else:
        out, lse = _many_rows(q, k, v, length, k_scale, v_scale, k_rest, v_rest)
    if shared:
        out = out.reshape(kv_heads, batch, group, tokens, head_dim).transpose(1, 0, 2, 3, 4)
        lse = lse.reshape(kv_heads, batch, group, tokens).transpose(1, 0, 2, 3)
    return out, lse


def _visible(length: jax.Array | None, mask: jax.Array | None, group: int, tokens: int, slots: int) -> jax.Array:
    """Bool broadcastable to [B,K,G*T,S]."""
    if length is not None:
        return (jnp.arange(slots)[None, :] < length[:, None])[:, None, None, :]
    if mask is None:
        mask = jnp.tril(jnp.ones((tokens, slots), bool))
    mask = mask if mask.ndim == 3 else mask[None]
    return jnp.tile(mask, (1, group, 1))[:, None]


def _softmax_parts(scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    return weights, jnp.sum(weights, axis=-1, keepdims=True), top


def _few_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    k_scale: jax.Array | None,
    v_scale: jax.Array | None,
    k_rest: jax.Array | None,
    v_rest: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Decoding: rows [G*T] against all slots at once."""
    rows = q.reshape(*q.shape[:2], -1, q.shape[-1])
    v = widen(v, q.dtype, v_rest)
    weights, total, top = _softmax_parts(scores_of(rows, k, visible, k_scale, k_rest))
    if v_scale is not None:
        weights = weights * v_scale[:, :, None]
    out = jnp.einsum("bkrs,bksh->bkrh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    return out.reshape(q.shape), (top + jnp.log(total)).reshape(q.shape[:-1])


def scores_of(
    rows: jax.Array, k: jax.Array, visible: jax.Array, k_scale: jax.Array | None, k_rest: jax.Array | None = None
) -> jax.Array:
    """Scores float32 [B,K,R,S] of queries [B,K,R,H], scaled by 1/sqrt(H), for keys [B,K,S,H].

    Args:
      rows, k: see above.
      visible: bool broadcastable to [B,K,R,S]; elsewhere scores are MASKED.
      k_scale, k_rest: see `attend_segment`.
    """
    k = widen(k, rows.dtype, k_rest)
    if rows.shape[2] <= KEYS_FIRST_ROWS:
        scores = jnp.swapaxes(jnp.einsum("bksh,bkrh->bksr", k, rows, preferred_element_type=jnp.float32), 2, 3)
    else:
        scores = jnp.einsum("bkrh,bksh->bkrs", rows, k, preferred_element_type=jnp.float32)
    if k_scale is not None:
        scores = scores * k_scale[:, :, None]
    return jnp.where(visible, scores, MASKED)


def _many_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    k_scale: jax.Array | None,
    v_scale: jax.Array | None,
    k_rest: jax.Array | None,
    v_rest: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Prefill over what came before: online softmax over blocks of keys, as many as `length` needs."""
    slots = k.shape[2]
    size = min(KEY_BLOCK, slots)

    def one_head(args: tuple[jax.Array, jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, jax.Array]:
        q, length, cached = args

        def block(index: jax.Array, running: Running) -> Running:
            start = jnp.minimum(index * size, slots - size)  # the last block overlaps its neighbour when S % size
            held = {name: jax.lax.dynamic_slice_in_dim(x, start, size) for name, x in cached.items()}
            keys, values = widen(held["k"], q.dtype, held.get("k_rest")), held["v"]
            slot = start + jnp.arange(size)
            seen = ((slot >= index * size) & (slot < length))[None, :]
            scores = jnp.einsum("rh,sh->rs", q, keys, preferred_element_type=jnp.float32)
            if "k_scale" in held:
                scores = scores * held["k_scale"][None]
                # many rows share the block: what restoring its values costs is nothing
                values = restore(values, q.dtype, scale=held["v_scale"], rest=held.get("v_rest"))
            return see(running, jnp.where(seen, scores, MASKED), values)

        return result(jax.lax.fori_loop(0, (length + size - 1) // size, block, nothing_seen(*q.shape)))

    pairs = q.shape[0] * q.shape[1]
    rows = q.reshape(pairs, -1, q.shape[-1])
    lengths = jnp.broadcast_to(length[:, None], k.shape[:2])
    stored = dict(k=k, v=v, k_scale=k_scale, v_scale=v_scale, k_rest=k_rest, v_rest=v_rest)
    cached = {name: x.reshape(pairs, *x.shape[2:]) for name, x in stored.items() if x is not None}
    out, lse = jax.lax.map(one_head, (rows, lengths.reshape(pairs), cached))
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])
