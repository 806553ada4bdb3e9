"""Writes into the caches: commits of different counts, drops past the capacity, donation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cache import Block, ContextCache, TailCache, append_chunk, commit, empty_context, empty_tail
from models.config import ModelConfig
from models.sharding import make_mesh

CONFIG = ModelConfig(
    family="llama",
    vocab_size=8,
    width=8,
    ffn_width=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    max_position=64,
)
commit_jit = jax.jit(commit, donate_argnums=0)
append_jit = jax.jit(append_chunk, donate_argnums=0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def make_block(seed, batch, tokens):
    shape = (batch, CONFIG.num_kv_heads, tokens, CONFIG.head_dim)
    layers = range(CONFIG.num_layers)
    return Block(
        tuple(normal(seed + layer, *shape) for layer in layers),
        tuple(normal(seed + 10 + layer, *shape) for layer in layers),
    )


def make_tail(seed, lengths, capacity=8):
    block = make_block(seed, len(lengths), capacity)
    return TailCache(block.k, block.v, jnp.asarray(lengths, jnp.int32))


def expected_commit(tail, block, count, rows=None):
    """Row by row and token by token in NumPy."""
    results = []
    for cache, new in zip((*tail.k, *tail.v), (*block.k, *block.v), strict=True):
        cache, new = np.array(cache), np.asarray(new)
        for row, length in enumerate(np.asarray(tail.length)):
            for index in range(count[row]):
                token = index if rows is None else rows[row][index]
                if length + index < cache.shape[2]:
                    cache[row, :, length + index] = new[row, :, token]
        results.append(cache)
    return results


def check_commit(tail, block, count, rows=None):
    expected = expected_commit(tail, block, count, rows)
    length = np.asarray(tail.length) + count
    rows = None if rows is None else jnp.asarray(rows, jnp.int32)
    result = commit_jit(tail, block, jnp.asarray(count, jnp.int32), rows)
    for ours, theirs in zip((*result.k, *result.v), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(result.length, length)


def test_rows_commit_different_counts():
    """Each row accepts its own number of tokens; zero changes nothing at all."""
    check_commit(make_tail(0, [2, 0, 5]), make_block(50, 3, 4), [3, 0, 1])


def test_kept_tokens_can_be_picked_out_of_the_block():
    """A tree of candidates keeps one path, whose tokens are not neighbours in the block."""
    check_commit(make_tail(1, [1, 4]), make_block(60, 2, 5), [2, 3], rows=[[0, 4, 0], [0, 2, 3]])


def test_writes_past_the_capacity_are_dropped_and_good_rows_stay():
    """A clamped write would silently overwrite the newest good tokens."""
    check_commit(make_tail(2, [6, 8, 7]), make_block(70, 3, 4), [4, 4, 2])


def test_tokens_beyond_the_count_leave_no_trace():
    """Rejected tokens must not appear beyond the length either: a later commit of another row must not meet them."""
    tail = make_tail(3, [2])
    before = np.array(tail.k[0])
    after = np.asarray(commit_jit(tail, make_block(80, 1, 4), jnp.asarray([1], jnp.int32)).k[0])
    np.testing.assert_array_equal(after[:, :, 3:], before[:, :, 3:])


def test_a_chunk_is_appended_at_its_place_alone():
    """Prefill writes chunk after chunk; lengths are those given, row by row."""
    context = empty_context(CONFIG, 2, 12, jnp.float32)
    blocks = make_block(90, 2, 4), make_block(95, 2, 4)
    context = append_jit(context, blocks[0], jnp.int32(0), jnp.asarray([4, 3], jnp.int32))
    context = append_jit(context, blocks[1], jnp.int32(4), jnp.asarray([7, 3], jnp.int32))
    for layer in range(CONFIG.num_layers):
        for cache, new in ((context.k, [b.k for b in blocks]), (context.v, [b.v for b in blocks])):
            np.testing.assert_array_equal(cache[layer][:, :, :8], np.concatenate([n[layer] for n in new], axis=2))
            assert not np.asarray(cache[layer][:, :, 8:]).any()
    np.testing.assert_array_equal(context.length, [7, 3])


def test_empty_caches_have_the_shapes_and_dtypes_asked_for():
    """Capacity and layout are what every program is compiled for."""
    for make, kind in ((empty_context, ContextCache), (empty_tail, TailCache)):
        cache = make(CONFIG, 3, 10, jnp.bfloat16)
        assert isinstance(cache, kind) and cache.capacity == 10
        assert len(cache.k) == len(cache.v) == CONFIG.num_layers
        assert {x.shape for x in (*cache.k, *cache.v)} == {(3, 2, 10, 6)}
        assert {x.dtype for x in (*cache.k, *cache.v)} == {jnp.dtype(jnp.bfloat16)}
        assert cache.length.dtype == jnp.int32 and not np.asarray(cache.length).any()


def test_float32_blocks_are_stored_in_the_dtype_of_the_cache():
    """A cache that widened on its first write would double its memory and recompile."""
    tail = commit_jit(empty_tail(CONFIG, 2, 6, jnp.bfloat16), make_block(96, 2, 2), jnp.asarray([1, 2], jnp.int32))
    assert tail.k[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("function", ["append", "commit"])
def test_a_donated_cache_is_written_in_place(function):
    """Without aliasing every write would copy the cache: the old buffers are gone, the new ones are the same memory."""
    if function == "append":
        cache = empty_context(CONFIG, 2, 16, jnp.float32)
        args, jitted = (make_block(97, 2, 4), jnp.int32(0), jnp.asarray([4, 4], jnp.int32)), append_jit
    else:
        cache = empty_tail(CONFIG, 2, 16, jnp.float32)
        args, jitted = (make_block(98, 2, 4), jnp.asarray([4, 4], jnp.int32)), commit_jit
    size = sum(x.nbytes for x in (*cache.k, *cache.v))
    analysis = jitted.lower(cache, *args).compile().memory_analysis()
    assert analysis.alias_size_in_bytes >= size
    jitted(cache, *args)
    assert all(x.is_deleted() for x in (*cache.k, *cache.v))


def test_caches_on_a_mesh_are_split_over_rows_and_heads():
    """A cache that stayed on one device would not fit; a context of one row is whole on every data shard."""
    mesh = make_mesh((2, 1, 2))
    own = empty_tail(CONFIG, 4, 6, jnp.float32, mesh)
    assert own.k[0].sharding.shard_shape(own.k[0].shape) == (2, 1, 6, 6)
    assert own.length.sharding.shard_shape((4,)) == (2,)
    shared = empty_context(CONFIG, 1, 6, jnp.float32, mesh)
    assert shared.k[0].sharding.shard_shape(shared.k[0].shape) == (1, 1, 6, 6)
    assert len(shared.k[0].sharding.device_set) == 4


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 4, 1), (1, 2, 2)])
def test_a_striped_context_holds_an_equal_share_of_every_chunk(shape):
    """Chunks of different sizes, documents that end in different chunks: every token lies once, where `filled` says."""
    mesh, shards, lengths = make_mesh(shape), shape[1], np.array([71, 35])
    context = empty_context(CONFIG, 2, 96, jnp.float32, mesh)
    assert context.k[0].sharding.shard_shape(context.k[0].shape)[2] == 96 // shards
    append = jax.jit(functools.partial(append_chunk, mesh=mesh), donate_argnums=0)
    start, expected = 0, [[[] for _ in range(shards)] for _ in lengths]
    for size in (32, 32, 16):
        block = make_block(start, 2, size)
        context = append(context, block, jnp.int32(start), jnp.asarray(np.minimum(lengths, start + size), jnp.int32))
        for row, length in enumerate(lengths):
            for token in range(min(max(length - start, 0), size)):
                expected[row][token * shards // size].append(np.asarray(block.k[1])[row, :, token])
        start += size
    np.testing.assert_array_equal(context.length, lengths)
    keys = np.asarray(context.k[1]).reshape(2, CONFIG.num_kv_heads, shards, 96 // shards, CONFIG.head_dim)
    for row, held in enumerate(expected):
        for shard, tokens in enumerate(held):
            assert context.filled[row, shard] == len(tokens)
            for slot, token in enumerate(tokens):
                np.testing.assert_array_equal(keys[row, :, shard, slot], token)


def test_what_does_not_split_over_the_shards_is_refused():
    """A share of half a token has no place."""
    mesh = make_mesh((1, 4, 1))
    with pytest.raises(ValueError, match="context of 30 slots does not split over 4 shards"):
        empty_context(CONFIG, 1, 30, jnp.float32, mesh)
    context = empty_context(CONFIG, 1, 32, jnp.float32, mesh)
    with pytest.raises(ValueError, match="chunk of 6 tokens does not split over 4 shards"):
        append_chunk(context, make_block(0, 1, 6), jnp.int32(0), jnp.asarray([6], jnp.int32), mesh)
