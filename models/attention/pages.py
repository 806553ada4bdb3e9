"""How much attention each page of a cache gets."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from models.attention.api import Segment, segment_spec
from models.attention.xla import scores_of
from models.formats.widening import in_basis_of
from models.sharding import rows_axis


def page_mass(q: jax.Array, segment: Segment, page: int, mesh: Mesh | None = None) -> jax.Array:
    """The weights of a softmax over one segment, summed over pages, over queries and over the heads of a group.

    Args:
      q: [B,T,N,H], rotated, not yet scaled by 1/sqrt(H).
      segment: S slots with a length; its values are not read.
      page: slots of a page; divides the slots of each shard.
      mesh: see `attend`.

    Returns:
      float32 [B,K,S/page]; of slots out of use 0, and all 0 where none is in use.
    """
    sharded = mesh is not None and mesh.shape["context"] > 1

    def local(q: jax.Array, segment: Segment) -> jax.Array:
        batch, tokens, heads, head_dim = q.shape
        shared, kv_heads, slots, _ = segment.k.shape
        rows = (q * jnp.asarray(head_dim**-0.5, q.dtype)).reshape(batch, tokens, kv_heads, -1, head_dim)
        rows = rows.transpose(2, 0, 3, 1, 4)  # [K,B,G,T,H]: a shared segment is read once for all rows of the batch
        rows = jnp.swapaxes(rows.reshape(kv_heads, shared, -1, head_dim), 0, 1)
        rows = in_basis_of(segment.k, rows)
        visible = jnp.arange(slots)[None, :] < cast(jax.Array, segment.length).reshape(shared, 1)
        scores = scores_of(rows, segment.k, visible[:, None, None, :], segment.k_scale, segment.k_rest)
        top = jnp.max(scores, axis=-1, keepdims=True)
        top = jax.lax.pmax(top, "context") if sharded else top
        weights = jnp.where(visible[:, None, None, :], jnp.exp(scores - top), 0.0)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        total = jax.lax.psum(total, "context") if sharded else total
        weights = weights / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
        of_pages = jnp.sum(weights.reshape(*weights.shape[:3], slots // page, page), axis=-1)
        of_rows = jnp.swapaxes(of_pages, 0, 1).reshape(kv_heads, batch, -1, slots // page)
        return jnp.swapaxes(jnp.sum(of_rows, axis=2), 0, 1)

    if mesh is None or mesh.size == 1:
        return local(q, segment)
    rows = rows_axis(q.shape[0])
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(rows, None, "model", None), segment_spec(segment)),
        out_specs=P(rows, "model", "context" if segment.is_striped else None),
        check_vma=False,
    )(q, segment)
