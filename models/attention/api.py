"""attend(): one softmax over several key-value segments, each attended to apart and merged by log-sum-exp."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from models.attention import gpu, tpu, xla
from models.attention.online_softmax import MASKED
from models.formats.widening import in_basis_of
from models.sharding import rows_axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Segment:
    """Keys and values with what may be seen of them.

    Attributes:
      k, v: [Bs,K,S,H]; Bs is B, or 1 when all rows of the batch share the segment.
      length: int32 [Bs], slots in use; [Bs,n] where the slots are split into n shards of equal size over the mesh axis
        `context`: the first ones of each shard. None for the block in flight.
      mask: bool [T,S] or [B,T,S], for the block in flight; None there is causal.
      k_scale, v_scale: None, or float32 [Bs,K,S], what a slot's numbers are multiplied by; k and v are then in the
        dtype of their format (models.formats).
      k_rest, v_rest: None, or the lower planes of k and v.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array | None = None
    mask: jax.Array | None = None
    k_scale: jax.Array | None = None
    v_scale: jax.Array | None = None
    k_rest: jax.Array | None = None
    v_rest: jax.Array | None = None

    @property
    def stored(self) -> dict[str, jax.Array]:
        """What backends need beside k and v to read numbers of a narrow format."""
        names = ("k_scale", "v_scale", "k_rest", "v_rest")
        return {name: x for name in names if (x := getattr(self, name)) is not None}

    @property
    def is_striped(self) -> bool:
        """Whether the slots lie on the shards of the mesh axis `context`."""
        return self.length is not None and self.length.ndim == 2


LEAST_SHARE = 64  # queries of a causal block that are worth a shard's own calls


BACKENDS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "xla": xla.attend_segment,
    "tpu": tpu.attend_segment,
    "gpu": gpu.attend_segment,
}


def _picked(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
    """The platform's own backend, or the reference where there is none or it cannot do the case."""
    try:
        return BACKENDS.get(jax.default_backend(), xla.attend_segment)(*args, **kwargs)
    except NotImplementedError:
        return xla.attend_segment(*args, **kwargs)


def check_backend(name: str | None) -> None:
    """Raises ValueError where this is no backend's name; None is anyone's."""
    if name is not None and name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is unknown; known: {', '.join(sorted(BACKENDS))}")


def attend(
    q: jax.Array, segments: tuple[Segment, ...], *, mesh: Mesh | None = None, backend: str | None = None
) -> jax.Array:
    """Softmax attention of q over all segments together.

    Each segment gives its own output and log-sum-exp; merging them is exact (FlashAttention-2, arXiv 2307.08691,
    section 3.1): out = sum_i exp(lse_i - lse) * out_i. The shards of a striped segment are merged in the same way, so
    that what goes over the wire depends on T alone and never on the slots.

    Args:
      q: [B,T,N,H], rotated, not yet scaled by 1/sqrt(H).
      segments: the context, the tail and the block, those that exist.
      mesh: with a mesh, rows are split over `data` (a single row is on all of it), heads over `model` and the slots of
        striped segments over `context`, by shard_map.
      backend: a name in BACKENDS; None picks by jax.default_backend(), which is not a TPU where one is compiled for
        without having one.

    Returns:
      [B,T,N,H] in q's dtype.

    Raises:
      ValueError: unknown backend.
      NotImplementedError: the named backend cannot do this case.
    """
    check_backend(backend)
    attend_segment = _picked if backend is None else BACKENDS[backend]

    shards = 1 if mesh is None else mesh.shape["context"]

    def local(q: jax.Array, segments: tuple[Segment, ...]) -> jax.Array:
        return _attend_local(q, segments, attend_segment, shards)

    if mesh is None or mesh.size == 1:
        return local(q, segments)
    q_spec = P(rows_axis(q.shape[0]), None, "model", None)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(q_spec, tuple(map(segment_spec, segments))), out_specs=q_spec, check_vma=False
    )(q, segments)


def segment_spec(segment: Segment) -> Segment:
    """A Segment of PartitionSpecs."""
    rows = rows_axis(segment.k.shape[0])
    slots = "context" if segment.is_striped else None
    kv, scale = P(rows, "model", slots, None), P(rows, "model", slots)
    specs = dict(
        k=kv,
        v=kv,
        length=P(rows, slots) if segment.is_striped else P(rows),
        mask=P(rows, None, None) if segment.mask is not None and segment.mask.ndim == 3 else P(None, None),
        k_scale=scale,
        v_scale=scale,
        k_rest=kv,
        v_rest=kv,
    )
    present = {name: spec for name, spec in specs.items() if getattr(segment, name) is not None}
    return cast(Segment, Segment(**cast(Any, present)))


def _attend_local(q: jax.Array, segments: tuple[Segment, ...], attend_segment: Callable, shards: int) -> jax.Array:
    """What one device computes, of its rows and heads and of its slots of striped segments."""
    batch, tokens, heads, head_dim = q.shape
    kv_heads = segments[0].k.shape[1]
    group = heads // kv_heads
    grouped = jnp.reshape(q, (batch, tokens, kv_heads, group, head_dim)).transpose(0, 2, 3, 1, 4)

    def part(segment: Segment) -> tuple[jax.Array, jax.Array]:
        s, length = segment, segment.length
        if s.is_striped:
            length = cast(jax.Array, length)[:, 0]
        return attend_segment(in_basis_of(s.k, grouped), s.k, s.v, length, s.mask, **s.stored)

    spread, parts = [], []  # what the shards of a context share out, and what each of them computes whole
    splits = any(s.is_striped for s in segments) and tokens % shards == 0 and tokens // shards >= LEAST_SHARE
    for segment in segments:
        if shards > 1 and segment.is_striped:
            spread.append(part(segment))
        elif shards > 1 and splits and segment.length is None and segment.mask is None:
            spread.append(_own_queries(grouped, segment, attend_segment, shards))
        else:
            parts.append(part(segment))
    if spread:
        parts.append(_merge_over(merge(spread), "context"))
    merged, _ = merge(parts)
    return merged.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


def _own_queries(q: jax.Array, block: Segment, attend_segment: Callable, shards: int) -> tuple[jax.Array, jax.Array]:
    """Attention to a causal block [B,K,T,H] of this shard's share of the queries [B,K,G,T,H]; the others see nothing.

    Every shard holds the whole block, and would otherwise repeat what the others do.
    """
    share = q.shape[3] // shards
    start = jax.lax.axis_index("context") * share

    def mine(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, start, share, axis=x.ndim - 2)

    before = jnp.full(block.k.shape[:1], start, jnp.int32)
    out, lse = merge(
        [
            attend_segment(mine(q), block.k, block.v, before, None),
            attend_segment(mine(q), mine(block.k), mine(block.v), None, None),
        ]
    )
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=3)
    return put(jnp.zeros(q.shape), out), put(jnp.full(q.shape[:-1], MASKED), lse)


def _merge_over(part: tuple[jax.Array, jax.Array], axis: str) -> tuple[jax.Array, jax.Array]:
    """Merges (output, log-sum-exp) of the key sets that lie along a mesh axis; every device has the result."""
    out, lse = part
    top = jax.lax.pmax(lse, axis)
    weight = jnp.exp(lse - top)
    out, total = jax.lax.psum((out * weight[..., None], weight), axis)
    return out / total[..., None], top + jnp.log(total)


def merge(parts: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """Merges (output [...,H], log-sum-exp [...]) of disjoint key sets into those over all of them."""
    if len(parts) == 1:
        return parts[0]
    lse = jnp.stack([part[1] for part in parts])
    top = jnp.max(lse, axis=0, keepdims=True)
    weights = jnp.exp(lse - top)
    total = jnp.sum(weights, axis=0, keepdims=True)
    out = sum(w[..., None] * out for w, (out, _) in zip(weights / total, parts, strict=True))
    return cast(jax.Array, out), (top + jnp.log(total))[0]
