"""Key-value caches: a frozen context, a growing tail, and the block of tokens in flight.

What lies at or beyond `length` in any cache is garbage by contract: attention masks it and the next write replaces it.
Positions are baked into the keys by RoPE, so the order of slots is free. A context on a mesh uses that: of every
prefill chunk each shard of the `context` axis takes an equal share of the tokens (striping), so that writes stay local
and every shard holds as much of each part of the document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.attention import Segment
from models.config import ModelConfig
from models.formats import KV_FIELDS
from models.sharding import context_spec, tail_spec

Layers = tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    """Keys and values of the T tokens of one forward, apart from the caches until they are accepted.

    Attributes:
      k, v: one array a layer, [B,K,T,H].
      mass: where a forward was asked for it, how much attention each page of its first cache got; see
        models.attention.pages.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]
    mass: tuple[jax.Array, ...] | None = None


@dataclasses.dataclass
class KVCache:
    """Keys and values behind a length.

    Attributes:
      k, v: one array a layer, [B,K,slots,H].
      length: int32 [B], slots in use.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]
    length: jax.Array

    @property
    def capacity(self) -> int:
        """Slots, in tokens."""
        return self.k[0].shape[2]

    def segment(self, layer: int) -> Segment:
        """What a layer's attention reads."""
        return Segment(self.k[layer], self.v[layer], self.length)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ContextCache(KVCache):
    """A document's keys and values [Bc,K,S,H]: written by prefill, frozen afterwards.

    Bc is 1 when all rows of a batch read the same document.

    Attributes:
      filled: int32 [Bc,n], slots in use on each of the n shards of the `context` axis, the first ones of every shard;
        shard c holds slots [c * S / n, (c + 1) * S / n). Without a mesh n is 1 and this is `length`.
      k_scale, v_scale: None, or of a format that has them (models.formats): one float32 [Bc,K,S] a layer, what a slot's
        numbers are multiplied by.
      k_rest, v_rest: the same, int4 [Bc,K,S,H], the lower planes of k and v.
    """

    filled: jax.Array
    k_scale: Layers | None = None
    v_scale: Layers | None = None
    k_rest: Layers | None = None
    v_rest: Layers | None = None

    @property
    def held(self) -> dict[str, Layers]:
        """What keys and values are made of, by field."""
        return {name: layers for name in KV_FIELDS if (layers := getattr(self, name)) is not None}

    @property
    def upper(self) -> ContextCache:
        """The same without lower planes."""
        return dataclasses.replace(self, k_rest=None, v_rest=None)

    def segment(self, layer: int) -> Segment:
        return Segment(**{name: layers[layer] for name, layers in self.held.items()}, length=self.filled)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TailCache(KVCache):
    """Keys and values [B,K,R,H] of the question and the generated tokens; grows by accepted tokens."""


def _empty(config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, mesh: Mesh | None, spec: P) -> dict:
    shape = (batch, config.num_kv_heads, capacity, config.head_dim)

    def layers() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype, device=_placed(mesh, spec)) for _ in range(config.num_layers))

    return dict(k=layers(), v=layers(), length=jnp.zeros((batch,), jnp.int32, device=_placed(mesh, P(spec[0]))))


def _placed(mesh: Mesh | None, spec: P) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, spec)


def empty_context(
    config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, mesh: Mesh | None = None
) -> ContextCache:
    """A ContextCache of `capacity` free slots for `batch` documents, split as models.sharding.context_spec says.

    Raises:
      ValueError: the mesh's context axis does not divide the capacity.
    """
    shards = 1 if mesh is None else mesh.shape["context"]
    if capacity % shards:
        raise ValueError(f"a context of {capacity} slots does not split over {shards} shards; give a multiple")
    spec = context_spec(batch)
    filled = jnp.zeros((batch, shards), jnp.int32, device=_placed(mesh, P(spec[0], "context")))
    return ContextCache(**_empty(config, batch, capacity, dtype, mesh, spec), filled=filled)


def empty_tail(config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, mesh: Mesh | None = None) -> TailCache:
    """A TailCache of `capacity` free slots for `batch` rows, split as models.sharding.tail_spec says."""
    return TailCache(**_empty(config, batch, capacity, dtype, mesh, tail_spec(batch)))


def append_chunk(
    context: ContextCache, block: Block, start: jax.Array, lengths: jax.Array, mesh: Mesh | None = None
) -> ContextCache:
    """Writes a prefill chunk of T tokens behind what every shard holds: T / n tokens each, no write crosses a shard.

    Args:
      context: the cache; donate it, so that the write happens in place.
      block: the chunk's keys and values.
      start: int32 scalar, tokens before the chunk, padding included; a multiple of n. The caller keeps
        start + T <= S, because this slice write would clamp.
      lengths: int32 [Bc], each document's length in tokens after this chunk.
      mesh: the context's.

    Raises:
      ValueError: n does not divide T.
    """
    batch, _, tokens, _ = block.k[0].shape
    shards = context.filled.shape[1]
    if tokens % shards:
        raise ValueError(f"a chunk of {tokens} tokens does not split over {shards} shards of a context")
    share = tokens // shards

    def write(caches: Layers, new: Layers, at: jax.Array) -> Layers:
        def one(cache: jax.Array, part: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(cache, part.astype(cache.dtype), at, axis=2)

        return tuple(map(one, caches, new))

    if mesh is not None and shards > 1:
        spec = context_spec(batch)
        write = jax.shard_map(write, mesh=mesh, in_specs=(spec, spec, P()), out_specs=spec, check_vma=False)
    before = start // shards
    own = lengths[:, None] - start - share * jnp.arange(shards)[None, :]
    filled = jnp.where(lengths[:, None] > start, before + jnp.clip(own, 0, share), context.filled)
    return dataclasses.replace(
        context,
        k=write(context.k, block.k, before),
        v=write(context.v, block.v, before),
        length=lengths,
        filled=filled.astype(jnp.int32),
    )


def quantize_context(context: ContextCache, layer: Callable[..., dict[str, Any]]) -> ContextCache:
    """A frozen context in a format of fewer bits, layer by layer; each one's float arrays are freed before the next.

    The peak is thus the float context and one narrow layer, which prefill had room for: later chunks of a document are
    read over exact keys and values, and nothing is rounded twice.

    Args:
      context: float keys and values; its arrays are deleted.
      layer: `quantize_layer` of a format (models.formats), compiled or not.
    """
    layers = []
    for k, v in zip(context.k, context.v, strict=True):
        layers.append(jax.block_until_ready(layer(k, v)))
        k.delete()
        v.delete()
    return with_layers(context, layers)


def with_layers(context: ContextCache, layers: Sequence[dict[str, Any]]) -> ContextCache:
    """A context whose layers are replaced by others, or by their shapes; each has those of KV_FIELDS that there are."""
    fields: dict[str, Any] = {name: tuple(layer[name] for layer in layers) for name in layers[0]}
    return dataclasses.replace(context, **fields)


def commit(tail: TailCache, block: Block, count: jax.Array, rows: jax.Array | None = None) -> TailCache:
    """Appends the accepted tokens of a block to each row's tail.

    Args:
      tail: the cache.
      block: keys and values of the T tokens in flight.
      count: int32 [B], how many tokens each row keeps. Writes past the capacity are dropped, never clamped.
      rows: int32 [B,M], which tokens of the block are kept, in order; None keeps the first ones.
    """
    kept = block.k[0].shape[2] if rows is None else rows.shape[1]
    offset = jnp.arange(kept)[None, :]
    slots = jnp.where(offset < count[:, None], tail.length[:, None] + offset, tail.capacity)
    return TailCache(*write_slots(tail, block, slots, rows), length=tail.length + count)


def write_slots(cache: KVCache, block: Block, slots: jax.Array, rows: jax.Array | None = None) -> tuple[Layers, Layers]:
    """A cache's keys and values with tokens of a block [B,K,T,H] written into them.

    Args:
      cache, block: see there.
      slots: int32 [B,M], where each token goes, no slot twice; what lies past the capacity is dropped.
      rows: int32 [B,M], which tokens of the block; None takes the first ones, M = T.
    """
    batch = jnp.arange(len(slots))[:, None]

    def write(held: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.swapaxes(new, 1, 2)
        if rows is not None:
            new = jnp.take_along_axis(new, rows[:, :, None, None], axis=1)
        return held.at[batch, :, slots].set(new.astype(held.dtype), mode="drop")

    return tuple(map(write, cache.k, block.k)), tuple(map(write, cache.v, block.v))
