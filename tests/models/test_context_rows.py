"""Contexts in the rows of one cache: what lands where, in every format and on every mesh, and what goes over the wire."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import ModelConfig
from models.cache import empty_context, with_layers
from models.context_rows import copy_row, empty_rows
from models.formats import kv_format
from models.sharding import context_specs, make_mesh

CONFIG = ModelConfig(
    family="llama", vocab_size=8, width=16, ffn_width=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=4,
    max_position=64,
)  # fmt: skip


def filled(context, seed):
    """A context with random numbers in every array, and its own shardings."""
    rng = np.random.default_rng(seed)

    def random(x):
        return jax.device_put(jnp.asarray(rng.integers(1, 7, x.shape), x.dtype), x.sharding)

    return jax.tree.map(random, context)


def narrow(context, kv):
    """The same context in another format, its shardings kept."""
    layer, specs = jax.jit(kv_format(kv).quantize_layer), context_specs(1)

    def placed(like, x):
        if not isinstance(like.sharding, NamedSharding):
            return x
        return jax.device_put(x, NamedSharding(like.sharding.mesh, specs[x.ndim]))

    layers = [
        {name: placed(k, x) for name, x in layer(k, v).items()} for k, v in zip(context.k, context.v, strict=True)
    ]
    return with_layers(context, layers)


@pytest.mark.parametrize("shape", [None, (2, 2, 2), (4, 1, 2), (1, 4, 1)])
@pytest.mark.parametrize("kv", ["", "int8", "planes"])
def test_a_context_lands_in_its_row_and_nowhere_else(shape, kv):
    """Each shard's slots stay on it, at its beginning: elsewhere a token would be read at another's place."""
    mesh = None if shape is None else make_mesh(shape)
    shards = 1 if shape is None else shape[1]
    own = empty_context(CONFIG, 1, 8, jnp.float32, mesh)
    own = filled(narrow(own, kv), 0)
    contexts = filled(empty_rows(own, 4, 16, mesh), 1)
    assert contexts.capacity == 16 and contexts.k[0].dtype == own.k[0].dtype
    assert set(contexts.held) == set(own.held)
    for row in range(4):
        at = jax.device_put(np.int32(row), None if mesh is None else NamedSharding(mesh, P()))
        copied = jax.jit(functools.partial(copy_row, mesh))(contexts, own, at)
        for new, old, one in zip(*map(jax.tree.leaves, (copied, contexts, own)), strict=True):
            expected, one = np.array(old), np.asarray(one)[0]
            if one.ndim < 2:
                expected[row] = one
            else:  # slots lie in shards of 16 / n and 8 / n
                spread = expected[row].reshape(one.shape[0], shards, 16 // shards, *one.shape[2:])
                spread[:, :, : 8 // shards] = one.reshape(one.shape[0], shards, 8 // shards, *one.shape[2:])
                expected[row] = spread.reshape(expected[row].shape)
            np.testing.assert_array_equal(new, expected)


def test_nothing_goes_over_the_wire():
    """A row that was gathered would take the memory of the whole batch on every device."""
    mesh = make_mesh((2, 2, 2))
    own = empty_context(CONFIG, 1, 8, jnp.float32, mesh)
    contexts = empty_rows(own, 4, 16, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, contexts)
    run = jax.jit(functools.partial(copy_row, mesh), donate_argnums=0, out_shardings=shardings)
    compiled = run.lower(contexts, own, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    held = sum(np.prod(x.sharding.shard_shape(x.shape)) * 4 for x in (*contexts.k, *contexts.v))
    assert compiled.memory_analysis().alias_size_in_bytes >= held, "in place"
