"""attend(): one softmax over several key-value segments, each attended to apart and merged by log-sum-exp."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from models.attention import xla


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Segment:
    """Keys and values with what may be seen of them.

    Attributes:
      k, v: [Bs,K,S,H]; Bs is B, or 1 when all rows of the batch share the segment.
      length: int32 [Bs], slots in use; None for the block in flight.
      mask: bool [T,S] or [B,T,S], for the block in flight; None there is causal.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array | None = None
    mask: jax.Array | None = None


BACKENDS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {"xla": xla.attend_segment}


def attend(
    q: jax.Array, segments: tuple[Segment, ...], *, mesh: Mesh | None = None, backend: str | None = None
) -> jax.Array:
    """Softmax attention of q over all segments together.

    Each segment gives its own output and log-sum-exp; merging them is exact (FlashAttention-2, arXiv 2307.08691,
    section 3.1): out = sum_i exp(lse_i - lse) * out_i.

    Args:
      q: [B,T,N,H], rotated, not yet scaled by 1/sqrt(H).
      segments: the context, the tail and the block, those that exist.
      mesh: with a mesh, rows are split over `data` (a single row is on all of it) and heads over `model`, by shard_map.
      backend: a name in BACKENDS; None picks.

    Returns:
      [B,T,N,H] in q's dtype.

    Raises:
      ValueError: unknown backend.
      NotImplementedError: the named backend cannot do this case.
    """
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown; known: {', '.join(sorted(BACKENDS))}")
    attend_segment = BACKENDS[backend or "xla"]

    def local(q: jax.Array, segments: tuple[Segment, ...]) -> jax.Array:
        return _attend_local(q, segments, attend_segment)

    if mesh is None or mesh.size == 1:
        return local(q, segments)
    q_spec = P(_rows_axis(q), None, "model", None)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(q_spec, tuple(map(_segment_spec, segments))), out_specs=q_spec, check_vma=False
    )(q, segments)


def _rows_axis(array: jax.Array) -> str | None:
    return "data" if array.shape[0] > 1 else None


def _segment_spec(segment: Segment) -> Any:
    """A Segment of PartitionSpecs."""
    rows = _rows_axis(segment.k)
    kv = P(rows, "model", None, None)
    length = None if segment.length is None else P(rows)
    mask = None if segment.mask is None else P(*((None, None) if segment.mask.ndim == 2 else (rows, None, None)))
    return jax.tree.unflatten(jax.tree.structure(segment), [s for s in (kv, kv, length, mask) if s is not None])


def _attend_local(q: jax.Array, segments: tuple[Segment, ...], attend_segment: Callable) -> jax.Array:
    batch, tokens, heads, head_dim = q.shape
    kv_heads = segments[0].k.shape[1]
    group = heads // kv_heads
    grouped = jnp.reshape(q, (batch, tokens, kv_heads, group, head_dim)).transpose(0, 2, 3, 1, 4)
    parts = [attend_segment(grouped, s.k, s.v, s.length, s.mask) for s in segments]
    merged = merge(parts) if len(parts) > 1 else parts[0][0]
    return merged.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


def merge(parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Merges (output [...,H], log-sum-exp [...]) of disjoint key sets into the output over all of them."""
    lse = jnp.stack([p[1] for p in parts])
    weights = jnp.exp(lse - jnp.max(lse, axis=0, keepdims=True))
    weights = weights / jnp.sum(weights, axis=0, keepdims=True)
    return sum(w[..., None] * out for w, (out, _) in zip(weights, parts, strict=True))
