"""Looking up suffix arrays on the device: pure functions of static shape."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rapid_jax.databases.shards import ABOVE, SENTINEL, Shard


def candidates(
    shards: Sequence[Shard], last_tokens: jax.Array, count: int, *, length: int, max_matches: int
) -> tuple[jax.Array, jax.Array]:
    """See `suffix_array.lookup`; the shards' arrays are on the device."""
    ranges = jnp.stack([_ranges(shard, last_tokens) for shard in shards])  # [S,B,2 queries,2 bounds]
    sizes = ranges[..., 1] - ranges[..., 0]
    whole = jnp.any(sizes[..., 0] > 0, axis=0)  # [B], whether both tokens were found anywhere
    matched = jnp.where(whole, 2, 1)
    low = jnp.where(whole[None, :], ranges[:, :, 0, 0], ranges[:, :, 1, 0])
    size = jnp.where(whole[None, :], sizes[..., 0], sizes[..., 1])
    found = [
        _most_frequent(shard, low[index], size[index], matched, count, length, max_matches)
        for index, shard in enumerate(shards)
    ]
    tokens, counts = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    if len(shards) > 1:
        tokens, counts = _merged(tokens, counts)
    return _fitted(tokens, counts, count)


def _ranges(shard: Shard, last_tokens: jax.Array) -> jax.Array:
    """Bounds of the suffixes that begin with a row's last two tokens, or its last one, and go on behind them.

    The sentinel is below all ids, so suffixes that end behind the query come first in its range: they lie before
    (query, 0), and all others before (query, ABOVE).

    Returns:
      int32 [B,2,2]: query (two tokens, one token), bound (first, behind the last); an empty range where none begins.
    """
    first, second = last_tokens[:, 0], last_tokens[:, 1]
    none, above = jnp.full_like(first, SENTINEL), jnp.full_like(first, ABOVE)
    zero = jnp.zeros_like(first)
    keys = [(first, second, zero), (first, second, above), (second, zero, none), (second, above, none)]
    below = _count_below(shard, jnp.stack([jnp.stack(key, axis=-1) for key in keys], axis=1))
    ids = jnp.stack([jnp.minimum(first, second), second], axis=1) >= 0  # the sentinel is nobody's last token
    bounds = below.reshape(-1, 2, 2)
    return jnp.where(ids[..., None], bounds, 0)


def _count_below(shard: Shard, keys: jax.Array) -> jax.Array:
    """How many suffixes are below each key: int32 [..., 3] -> int32 [...], by a binary search for all keys at once."""
    size = shard.suffixes.shape[0]
    bits = size.bit_length()

    def halve(index: jax.Array, below: jax.Array) -> jax.Array:
        more = below + (jnp.int32(1) << (bits - 1 - index))
        position = shard.suffixes[jnp.minimum(more, size) - 1]
        less, equal = jnp.zeros(below.shape, bool), jnp.ones(below.shape, bool)
        for offset in range(keys.shape[-1]):
            token, key = _tokens_at(shard, position + offset), keys[..., offset]
            less |= equal & (token < key)
            equal &= token == key
        return jnp.where((more <= size) & less, more, below)

    return jax.lax.fori_loop(0, bits, halve, jnp.zeros(keys.shape[:-1], jnp.int32))


def _tokens_at(shard: Shard, position: jax.Array) -> jax.Array:
    """Tokens at positions; behind the end of the shard is its last sentinel."""
    return shard.tokens[jnp.minimum(position, shard.tokens.shape[0] - 1)]


def _most_frequent(
    shard: Shard, low: jax.Array, size: jax.Array, matched: jax.Array, count: int, length: int, max_matches: int
) -> tuple[jax.Array, jax.Array]:
    """The continuations that come most often in a range of suffixes.

    Args:
      low, size: int32 [B], the range.
      matched: int32 [B], tokens of the query.

    Returns:
      (tokens int32 [B,C,length], counts int32 [B,C]) with C at most `count`, ranked; the sentinel fills what is behind
      a continuation, and a count of 0 is none.
    """
    looked_at = min(max_matches, shard.suffixes.shape[0])
    index = jnp.arange(looked_at, dtype=jnp.int32)[None, :]
    size = size[:, None]
    spread = index * (size // looked_at) + index * (size % looked_at) // looked_at  # index * size would overflow
    offset = jnp.where(size > looked_at, spread, index)
    start = _suffixes_at(shard, low[:, None] + offset) + matched[:, None]
    tokens, changed = [], jnp.zeros(start.shape, bool)
    ended = jnp.zeros(start.shape, bool)
    for step in range(length):
        token = _tokens_at(shard, start + step)
        ended |= token < 0
        token = jnp.where(ended, SENTINEL, token)
        changed |= token != jnp.roll(token, 1, axis=1)
        tokens.append(token)
    begins = (changed | (index == 0)) & (index < size)  # a run of equal continuations
    ends = jnp.minimum(size, looked_at)
    next_run = jax.lax.cummin(jnp.where(begins, index, ends), axis=1, reverse=True)
    next_run = jnp.concatenate([next_run[:, 1:], ends], axis=1)
    counts = jnp.where(begins, next_run - index, 0)
    best, which = jax.lax.top_k(counts.astype(jnp.float32), min(count, looked_at))  # of equal ones the earlier
    return jnp.stack([jnp.take_along_axis(token, which, axis=1) for token in tokens], axis=-1), best.astype(jnp.int32)


def _suffixes_at(shard: Shard, index: jax.Array) -> jax.Array:
    return shard.suffixes[jnp.minimum(index, shard.suffixes.shape[0] - 1)]


def _merged(tokens: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adds up the counts of equal candidates, tokens int32 [B,P,m] and counts int32 [B,P] (0: none), and ranks anew."""
    equal = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
    earlier = jnp.tril(jnp.ones(equal.shape[1:], bool), -1)
    again = jnp.any(equal & earlier[None], axis=2)
    total = jnp.where(again, 0, jnp.sum(jnp.where(equal, counts[:, None, :], 0), axis=2))
    columns = [tokens[..., step] for step in range(tokens.shape[2])]
    negative, *columns = jax.lax.sort([-total, *columns], dimension=1, num_keys=1 + len(columns))
    return jnp.stack(columns, axis=-1), -negative


def _fitted(tokens: jax.Array, counts: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The first `count` candidates and their lengths; 0 in the place of what is none."""
    missing = max(count - tokens.shape[1], 0)
    tokens = jnp.pad(tokens[:, :count], ((0, 0), (0, missing), (0, 0)), constant_values=SENTINEL)
    counts = jnp.pad(counts[:, :count], ((0, 0), (0, missing)))
    real = (tokens >= 0) & (counts > 0)[..., None]
    return jnp.where(real, tokens, 0), jnp.sum(real, axis=2, dtype=jnp.int32)
