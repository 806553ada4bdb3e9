"""Key-value caches: a frozen context, a growing tail, and the block of tokens in flight.

What lies at or beyond `length` in any cache is garbage by contract: attention masks it and the next write replaces it.
Positions are baked into the keys by RoPE, so the order of slots is free.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    """Keys and values of the T tokens of one forward, apart from the caches until they are accepted.

    Attributes:
      k, v: one array a layer, [B,K,T,H].
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ContextCache(KVCache):
    """A document's keys and values [Bc,K,S,H]: written by prefill, frozen afterwards.

    Bc is 1 when all rows of a batch read the same document.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TailCache(KVCache):
    """Keys and values [B,K,R,H] of the question and the generated tokens; grows by accepted tokens."""


def _empty(config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, sharding: NamedSharding | None) -> dict:
    shape = (batch, config.num_kv_heads, capacity, config.head_dim)
    rows = None if sharding is None else NamedSharding(sharding.mesh, P(sharding.spec[0]))

    def layers() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype, device=sharding) for _ in range(config.num_layers))

    return dict(k=layers(), v=layers(), length=jnp.zeros((batch,), jnp.int32, device=rows))


def empty_context(
    config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, sharding: NamedSharding | None = None
) -> ContextCache:
    """A ContextCache of `capacity` free slots for `batch` documents, split as models.sharding.cache_sharding says."""
    return ContextCache(**_empty(config, batch, capacity, dtype, sharding))


def empty_tail(
    config: ModelConfig, batch: int, capacity: int, dtype: jnp.dtype, sharding: NamedSharding | None = None
) -> TailCache:
    """A TailCache of `capacity` free slots for `batch` rows, split as models.sharding.cache_sharding says."""
    return TailCache(**_empty(config, batch, capacity, dtype, sharding))


def append_chunk(context: ContextCache, block: Block, start: jax.Array, lengths: jax.Array) -> ContextCache:
    """Writes a prefill chunk into slots [start, start + T) of every document.

    Args:
      context: the cache; donate it, so that the write happens in place.
      block: the chunk's keys and values.
      start: int32 scalar; the caller keeps start + T <= S, because this slice write would clamp.
      lengths: int32 [Bc], each document's length in tokens after this chunk.
    """

    def write(cache: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), start, axis=2)

    return ContextCache(
        k=tuple(map(write, context.k, block.k)), v=tuple(map(write, context.v, block.v)), length=lengths
    )


def commit(tail: TailCache, block: Block, count: jax.Array, rows: jax.Array | None = None) -> TailCache:
    """Appends the accepted tokens of a block to each row's tail.

    Args:
      tail: the cache.
      block: keys and values of the T tokens in flight.
      count: int32 [B], how many tokens each row keeps. Writes past the capacity are dropped, never clamped.
      rows: int32 [B,M], which tokens of the block are kept, in order; None keeps the first ones.
    """
    batch, _, size, _ = block.k[0].shape
    kept = size if rows is None else rows.shape[1]
    offset = jnp.arange(kept)[None, :]
    slots = jnp.where(offset < count[:, None], tail.length[:, None] + offset, tail.capacity)
    batch_index = jnp.arange(batch)[:, None]

    def write(cache: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.swapaxes(new, 1, 2)
        if rows is not None:
            new = jnp.take_along_axis(new, rows[:, :, None, None], axis=1)
        return cache.at[batch_index, :, slots].set(new.astype(cache.dtype), mode="drop")

    return TailCache(
        k=tuple(map(write, tail.k, block.k)), v=tuple(map(write, tail.v, block.v)), length=tail.length + count
    )
