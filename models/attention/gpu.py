"""The GPU backend: cuDNN's flash attention for prefill, plain XLA for decoding.

cuDNN is called through JAX's own binding one level below `jax.nn.dot_product_attention`. The public function rounds the
log-sum-exp to the dtype of the output (8 bits in bfloat16: errors of percents where segments are merged), and takes
keys slot-major alone, which would copy a head-major cache before every call. Where a release of JAX has no such
binding, the case is refused.

Few rows over a cache go to `xla`: cuDNN gives a single row of a batch to as many multiprocessors as there are heads,
and the scores that XLA writes are small beside the keys of a group. Neither choice has been timed or run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from models.attention import xla
from models.attention.online_softmax import MASKED


def attend_segment(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array | None,
    mask: jax.Array | None,
    **stored: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As models.attention.xla.attend_segment, which takes blocks with a mask and all calls of few rows.

    Raises:
      NotImplementedError: many rows with keys that have scales, float32, a head_dim that cuDNN does not take, no cuDNN.
    """
    batch, _, group, tokens, _ = q.shape
    rows = (batch if k.shape[0] == 1 else 1) * group * tokens
    if mask is not None or rows <= xla.FEW_ROWS:
        return xla.attend_segment(q, k, v, length, mask, **stored)
    if stored:
        raise NotImplementedError("attention backend gpu takes no keys with scales with many query rows")
    if q.dtype != jnp.bfloat16 or k.dtype != jnp.bfloat16:
        raise NotImplementedError(f"attention backend gpu takes many query rows in bfloat16 alone, got {q.dtype}")
    return _cudnn(q, k, v, length)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Flash attention, causal if there is no length."""
    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
    except ImportError as error:
        raise NotImplementedError(f"attention backend gpu finds no cuDNN binding in jax {jax.__version__}") from error
    batch, kv_heads, group, tokens, head_dim = q.shape
    rows = k.shape[0]
    if rows == batch:
        heads = q.reshape(batch, kv_heads * group, tokens, head_dim)
    else:  # the rows of a batch that share the keys become tokens of one row
        heads = q.transpose(1, 2, 0, 3, 4).reshape(1, kv_heads * group, batch * tokens, head_dim)
    padding: dict[str, Any] = dict(mask_type=MaskType.CAUSAL)
    if length is not None:  # an empty row reads one slot, and is given weight 0 below: cuDNN's own answer is NaN
        count = jnp.full((rows,), heads.shape[2], jnp.int32)
        padding = dict(mask_type=MaskType.PADDING, q_seqlen=count, kv_seqlen=jnp.maximum(length, 1).astype(jnp.int32))
    try:
        out, lse = dot_product_attention(
            heads, k, v, scale=head_dim**-0.5, qkv_layout="BNTH", return_residual=True, **padding
        )
    except RuntimeError as error:
        raise NotImplementedError(f"attention backend gpu: {error}") from error
    if length is not None:
        lse = jnp.where(length[:, None, None] > 0, lse, MASKED)
    if rows == batch:
        return out.astype(jnp.float32).reshape(q.shape), lse.reshape(q.shape[:-1])
    out = out.astype(jnp.float32).reshape(kv_heads, group, batch, tokens, head_dim)
    return out.transpose(2, 0, 1, 3, 4), lse.reshape(kv_heads, group, batch, tokens).transpose(2, 0, 1, 3)
