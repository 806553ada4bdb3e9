"""int4 weights: the error of rounding, products of few and of many rows, the load path, meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import init_params
from models.checkpoint import read_config
from models.decoder import Decoder
from models.formats import format_of
from models.formats.base import Matrix
from models.formats.int4 import FEW_ROWS, WEIGHTS, group_size, to_int4
from models.layers import Projection
from models.params import abstract_params
from models.sharding import make_mesh

TOKENS = np.random.default_rng(0).integers(3, 250, (2, 40))
QWEN = dict(family="qwen2", qkv_bias=True, num_heads=4, num_kv_heads=2, tie_embeddings=False)


@pytest.fixture(scope="module", params=[{}, QWEN], ids=["llama tied", "qwen untied"])
def checkpoint(request, make_tiny_checkpoint):
    return make_tiny_checkpoint(seed=3, scale=1.0, **request.param)


def restored(weight, scale, inputs):
    """[in..., G, g, out...] and its scales -> float [out..., in...]."""
    weight, scale = np.asarray(weight, np.float32), np.asarray(scale)
    turned = weight * np.expand_dims(scale, inputs)
    flat = turned.reshape(*turned.shape[: inputs - 1], -1, *turned.shape[inputs + 1 :])
    return np.moveaxis(flat, range(inputs), range(flat.ndim - inputs, flat.ndim))


def dequantized(params, name=""):
    """A tree of float weights that an int4 tree stands for."""
    if not isinstance(params, dict):
        return params
    if "scale" not in params:
        return {key: dequantized(value, key) for key, value in params.items()}
    whole = restored(params["weight"], params["scale"], 2 if name == "o_proj" else 1)
    return {**{key: value for key, value in params.items() if key != "scale"}, "weight": whole}


@pytest.mark.parametrize("shape, inputs, group", [((6, 64), 1, 16), ((3, 4, 32), 1, 8), ((5, 4, 16), 2, 16)])
def test_rounding_is_wrong_by_half_a_step_at_most(shape, inputs, group):
    """Every product would carry a larger error than int4 has to have."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    q, scale = to_int4(jnp.asarray(x), inputs, group)
    assert q.dtype == jnp.int4 and np.abs(np.asarray(q, np.int32)).max() == 7
    error = np.abs(restored(q, scale, inputs) - x).reshape(*shape[:-1], -1, group)
    steps = np.moveaxis(np.asarray(scale), range(inputs), range(len(shape) - inputs, len(shape)))
    assert np.all(error <= steps[..., None] * 0.5001)
    assert not np.any(np.asarray(to_int4(jnp.zeros(shape), inputs, group)[0], np.int32)), "zeros stay zero"


@pytest.mark.parametrize(
    "in_shape, expected",
    [((4096,), 128), ((14336,), 128), ((576,), 32), ((1536,), 64), ((8960,), 128), ((32, 128), 128), ((9, 64), 64)],
)
def test_groups_divide_the_inputs_and_are_enough_for_a_mesh(in_shape, expected):
    """Widths of LLaMA-3.1-8B, SmolLM2 and Qwen2.5-1.5B, and heads of both sizes."""
    matrix = Matrix((8,), ("ffn",), in_shape, ("heads", "head_dim")[-len(in_shape) :], std=1.0)
    assert group_size(matrix) == expected and in_shape[-1] % expected == 0


@pytest.mark.parametrize("rows", [1, 11, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_products_are_those_of_the_rounded_weight(dtype, tolerance, rows):
    """Few and many rows are computed in different ways."""
    x = jax.random.normal(jax.random.key(0), (1, rows, 64), dtype)
    weight = jax.random.normal(jax.random.key(1), (4, 8, 64)) * jnp.exp(jax.random.normal(jax.random.key(0), (4, 8, 1)))
    layer = Projection((4, 8), ("heads", "head_dim"), (64,), ("embed",), False, jnp.dtype(dtype), "int4")
    matrix = Matrix((4, 8), ("heads", "head_dim"), (64,), ("embed",), std=0.02)
    q, scale = to_int4(weight, 1, group_size(matrix))
    y = layer.apply({"params": {"weight": q, "scale": scale}}, x)
    expected = np.einsum("btd,nhd->btnh", np.asarray(x, np.float32), restored(q, scale, 1))
    assert y.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=tolerance * np.abs(expected).max())


def test_a_model_is_loaded_in_int4(checkpoint):
    """Weights would be rounded wrongly on their way from the file, or a matrix kept in float."""
    exact, rounded = models.load(checkpoint, "float32"), models.load(checkpoint, "float32", quantize="int4")
    layer = rounded.params["layers_1"]
    modules = [*layer["attn"].values(), *layer["mlp"].values()]
    assert all(format_of(module) is WEIGHTS for module in modules) and len(modules) == 7
    reference = Decoder(exact.config).apply(
        {"params": dequantized(rounded.params)}, TOKENS, np.tile(np.arange(40), (2, 1)), method="forward_logits"
    )[0]
    logits = rounded.logits(TOKENS)
    np.testing.assert_allclose(logits, reference, atol=2e-4 * np.abs(reference).max())
    wanted = exact.logits(TOKENS)
    assert 0.001 < np.linalg.norm(logits - wanted) / np.linalg.norm(wanted) < 0.4


def test_a_mesh_holds_the_same_int4_model(checkpoint):
    """A shard would be rounded with the scale of another shard's group."""
    one = models.load(checkpoint, "float32", quantize="int4")
    split = models.load(checkpoint, "float32", make_mesh((2, 2, 2)), quantize="int4")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), split.params, one.params)
    query = split.params["layers_0"]["attn"]["q_proj"]
    held = [query[name].addressable_shards[0].data for name in ("weight", "scale")]
    assert held[0].size * 4 == query["weight"].size and held[1].size * 4 == query["scale"].size
    np.testing.assert_allclose(split.logits(TOKENS), one.logits(TOKENS), atol=2e-4)


@pytest.mark.slow
def test_random_int4_weights_are_of_the_size_of_others(checkpoint):
    """Speed would be measured on a model whose activations overflow or vanish."""
    config = read_config(checkpoint)
    plain, drawn = init_params(config, dtype="float32"), init_params(config, dtype="float32", weights="int4")
    for ours, theirs in zip(jax.tree.leaves(dequantized(drawn)), jax.tree.leaves(plain), strict=True):
        assert ours.shape == theirs.shape
        assert float(np.std(ours)) == pytest.approx(float(np.std(theirs)), rel=0.15)
    shapes = abstract_params(config, np.dtype("float32"), weights="int4")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), drawn)


def test_refusals(checkpoint):
    """Activations would overflow in silence, or groups be torn by a mesh."""
    with pytest.raises(ValueError, match="int4 weights need dtype bfloat16 or float32: float16 overflows"):
        models.load(checkpoint, "float16", quantize="int4")
    config = dataclasses.replace(read_config(checkpoint), width=576)  # 18 groups
    with pytest.raises(
        ValueError, match=r"of int4 weights is \[18, .*\]: mesh .*'context': 8.* does not divide it; take"
    ):
        abstract_params(config, np.dtype("float32"), make_mesh((1, 8, 1)), "int4")
