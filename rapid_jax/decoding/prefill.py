"""Prefill: the document into a ContextCache, the question into a TailCache, in chunks of static size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import (
    ContextCache,
    KVCache,
    TailCache,
    append_chunk,
    commit,
    empty_context,
    empty_tail,
    quantize_context,
)
from models.decoder import Decoder, hidden_states
from models.formats import kv_format
from models.progress import ProgressCallback
from models.sharding import context_specs
from rapid_jax.decoding.buckets import chunk_sizes, context_bucket
from rapid_jax.decoding.programs import Programs, shardings_of


def context_chunk(
    decoder: Decoder, params: dict, context: ContextCache, tokens: jax.Array, start: jax.Array, lengths: jax.Array
) -> ContextCache:
    """Reads tokens [Bc,T] at positions start..start+T-1 and appends their keys and values; lengths [Bc] after it."""
    positions = jnp.broadcast_to(start + jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    _, block = hidden_states(decoder, params, tokens, positions, context)
    return append_chunk(context, block, start, lengths, decoder.mesh)


def tail_chunk(
    decoder: Decoder, params: dict, tail: TailCache, context: ContextCache, tokens: jax.Array, count: jax.Array
) -> TailCache:
    """Reads tokens [B,T], of which count [B] are real, after what the caches hold, and appends them to the tail."""
    positions = next_positions(tokens.shape[1], context, tail)
    _, block = hidden_states(decoder, params, tokens, positions, context, tail)
    return commit(tail, block, count)


def next_positions(tokens: int, *caches: KVCache) -> jax.Array:
    """RoPE positions int32 [B,T] of the T tokens of each row that follow what the caches hold."""
    start = sum((cache.length for cache in caches), jnp.int32(0))
    return start[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :]


def prefill_context(
    programs: Programs,
    decoder: Decoder,
    params: dict,
    documents: Sequence[Sequence[int]],
    *,
    chunk: int,
    dtype: jnp.dtype,
    mesh: Mesh | None = None,
    kv: str = "",
    progress: ProgressCallback | None = None,
) -> ContextCache:
    """Reads documents, one a row, into a new ContextCache.

    Args:
      documents: token ids; rows may differ in length.
      chunk: tokens of a forward, a power of two.
      kv: format that the cache is rounded to once all is read (models.formats); every chunk sees exact keys and values.
      progress: called with (tokens read, tokens in all) after every chunk.

    Returns:
      The cache, frozen from here on, with capacity context_bucket(longest).
    """
    lengths = np.array([len(d) for d in documents], np.int32)
    total = int(lengths.max())
    capacity = context_bucket(total, chunk)
    context = empty_context(decoder.config, len(documents), capacity, dtype, mesh)
    padded = np.zeros((len(documents), capacity), np.int32)
    for row, document in zip(padded, documents, strict=True):
        row[: len(document)] = document
    start = 0
    for size in chunk_sizes(total, chunk):
        context = _run(
            programs,
            context_chunk,
            decoder,
            mesh,
            params,
            context,
            padded[:, start : start + size],
            np.int32(start),
            np.minimum(lengths, start + size),
        )
        start += size
        if progress is not None and programs.runs:
            jax.block_until_ready(context.length)
            progress(min(start, total), total)
    return rounded(programs, context, kv)


def rounded(programs: Programs, context: ContextCache, kv: str) -> ContextCache:
    """A context in a format of models.formats, which takes its arrays over; "" leaves it as it is."""
    if not kv:
        return context
    specs, quantize_layer = context_specs(len(context.length)), kv_format(kv).quantize_layer

    def place(like: jax.sharding.Sharding, x: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        return NamedSharding(like.mesh, specs[x.ndim]) if isinstance(like, NamedSharding) else like

    def layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        placed = {name: place(k.sharding, x) for name, x in jax.eval_shape(quantize_layer, k, v).items()}
        return programs.get(quantize_layer, (), (k, v), out_shardings=placed)(k, v)

    return quantize_context(context, layer)


def prefill_tail(
    programs: Programs,
    decoder: Decoder,
    params: dict,
    context: ContextCache,
    rows: Sequence[Sequence[int]],
    *,
    capacity: int,
    chunk: int,
    dtype: jnp.dtype,
    mesh: Mesh | None = None,
    tail: TailCache | None = None,
) -> TailCache:
    """Reads each row's tokens (the question) after its context into a TailCache of `capacity` slots.

    Args:
      tail: what precedes the tokens, taken over (`continued_tail`); None starts an empty one.
    """
    lengths = np.array([len(r) for r in rows], np.int32)
    if tail is None:
        tail = empty_tail(decoder.config, len(rows), capacity, dtype, mesh)
    start = 0
    for size in chunk_sizes(int(lengths.max()), chunk):
        tokens = np.zeros((len(rows), size), np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            part = ids[start : start + size]
            row[: len(part)] = part
        count = np.clip(lengths - start, 0, size).astype(np.int32)
        tail = _run(programs, tail_chunk, decoder, mesh, params, tail, context, tokens, count)
        start += size
    return tail


def continued_tail(
    programs: Programs, tail: TailCache, length: int, capacity: int, mesh: Mesh | None = None
) -> TailCache:
    """The first `length` tokens of a tail's first row, in all rows of a tail of `capacity` slots.

    The given one stays as it is.
    """
    args = (tail, hosts.put(np.int32(length), None if mesh is None else NamedSharding(mesh, P())))
    return programs.get(resized_tail, (capacity,), args, out_shardings=shardings_of(tail))(*args)


def resized_tail(capacity: int, tail: TailCache, length: jax.Array) -> TailCache:
    """A tail with another number of slots, of which the first `length` are in use; all rows are the first one."""
    missing = max(capacity - tail.capacity, 0)

    def resized(x: jax.Array) -> jax.Array:
        first = jnp.pad(x[:1, :, :capacity], ((0, 0), (0, 0), (0, missing), (0, 0)))
        return jnp.broadcast_to(first, (len(x), *first.shape[1:]))

    return TailCache(
        tuple(map(resized, tail.k)), tuple(map(resized, tail.v)), jnp.broadcast_to(length, tail.length.shape)
    )


def _run(
    programs: Programs,
    function: Callable,
    decoder: Decoder,
    mesh: Mesh | None,
    params: dict,
    cache: Any,
    *args: Any,
) -> Any:
    """The cache behind a forward, which takes the given one over."""
    replicated = NamedSharding(mesh, P()) if mesh is not None else None
    args = tuple(hosts.put(a, replicated) if isinstance(a, (np.ndarray, np.generic)) else a for a in args)
    compiled = programs.get(
        function, (decoder,), (params, cache, *args), donate=(1,), out_shardings=shardings_of(cache)
    )
    return compiled(params, cache, *args) if programs.runs else cache
