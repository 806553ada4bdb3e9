"""Frozen contexts of single documents, copied into the rows of one cache; each keeps its own length and striping."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache
from models.sharding import context_specs, rows_axis


def empty_rows(like: ContextCache, rows: int, capacity: int, mesh: Mesh | None = None) -> ContextCache:
    """A cache of `rows` empty contexts in the format of another cache, scales included.

    Args:
      like: the other cache; only its shapes and dtypes are read.
      rows: Bc.
      capacity: S, slots of each.
      mesh: the rows are split over its data axis.
    """
    specs = context_specs(rows)

    def one(x: jax.Array) -> jax.Array:
        shape = (rows, *x.shape[1:]) if x.ndim < 3 else (rows, x.shape[1], capacity, *x.shape[3:])
        return jnp.zeros(shape, x.dtype, device=None if mesh is None else NamedSharding(mesh, specs[x.ndim]))

    return jax.tree.map(one, like)


def copy_row(mesh: Mesh | None, contexts: ContextCache, context: ContextCache, row: jax.Array) -> ContextCache:
    """Writes a context into a row of a cache of more rows; what lies behind it in the row stays, as garbage.

    Every device copies its own slots: nothing goes over the wire.

    Args:
      mesh: of both caches.
      contexts: [B,K,S,H]; donate it, so that the write happens in place.
      context: [1,K,S',H] with S' <= S, in the same format.
      row: int32 scalar, below B.
    """

    def local(contexts: ContextCache, context: ContextCache, row: jax.Array) -> ContextCache:
        here = len(contexts.length)
        if mesh is not None and rows_axis(rows):
            row = row - jax.lax.axis_index("data") * here
        inside, row = (row >= 0) & (row < here), jnp.clip(row, 0, here - 1)

        def write(held: jax.Array, new: jax.Array) -> jax.Array:
            start = (row, *[jnp.zeros_like(row)] * (held.ndim - 1))
            old = jax.lax.dynamic_slice(held, start, new.shape)  # of other devices' rows: it is written back
            return jax.lax.dynamic_update_slice(held, jnp.where(inside, new, old), start)

        return jax.tree.map(write, contexts, context)

    rows = len(contexts.length)
    if mesh is None:
        return local(contexts, context, row)
    split, shared = _specs(contexts), _specs(context)
    run = jax.shard_map(local, mesh=mesh, in_specs=(split, shared, P()), out_specs=split, check_vma=False)
    return run(contexts, context, row)


def _specs(context: ContextCache) -> Any:
    specs = context_specs(len(context.length))
    return jax.tree.map(lambda x: specs[x.ndim], context)
