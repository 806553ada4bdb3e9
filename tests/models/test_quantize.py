"""int8 weights, keys and values: the error of rounding, the load path, meshes, memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import init_params
from models.cache import empty_context, quantize_context
from models.checkpoint import export_hf, load_params, read_config, restore_orbax, save_orbax
from models.decoder import Decoder
from models.formats import kv_format
from models.formats.int8 import Int8Weights, to_int8
from models.formats.widening import restore, restore_keys
from models.layers import OutputHead, Projection
from models.params import abstract_params
from models.sharding import make_mesh

INT8_LAYER = kv_format("int8").quantize_layer
TOKENS = np.random.default_rng(0).integers(3, 250, (2, 40))
QWEN = dict(family="qwen2", qkv_bias=True, num_heads=4, num_kv_heads=2, tie_embeddings=False)


@pytest.fixture(scope="module", params=[{}, QWEN], ids=["llama tied", "qwen untied"])
def checkpoint(request, make_tiny_checkpoint):
    return make_tiny_checkpoint(seed=3, scale=1.0, **request.param)


def dequantized(params):
    """A tree of float weights that an int8 tree stands for."""
    if not isinstance(params, dict):
        return params
    if "scale" not in params:
        return {name: dequantized(value) for name, value in params.items()}
    weight, scale = np.asarray(params["weight"]), np.asarray(params["scale"])
    rest = {name: value for name, value in params.items() if name not in ("weight", "scale")}
    return {**rest, "weight": weight * scale.reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))}


@pytest.mark.parametrize("kept, shape", [(1, (6, 50)), (2, (3, 4, 16)), (3, (2, 2, 5, 8))])
def test_rounding_is_wrong_by_half_a_step_at_most(kept, shape):
    """Every product would carry a larger error than int8 has to have."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    q, scale = map(np.asarray, to_int8(jnp.asarray(x), kept))
    wide = scale.reshape(scale.shape + (1,) * (len(shape) - kept))
    assert q.dtype == np.int8 and scale.shape == shape[:kept]
    assert np.all(np.abs(q * wide - x) <= wide * 0.5001)
    np.testing.assert_array_equal(np.abs(q).reshape(*shape[:kept], -1).max(-1), 127)


def test_rows_of_zeros_stay_zero():
    """A padded or pruned channel would turn into NaN."""
    q, scale = to_int8(jnp.zeros((2, 3)), 1)
    assert not np.any(q) and not np.any(scale)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_products_are_those_of_the_rounded_weight(dtype, tolerance):
    """A scale on the wrong channel, or one applied twice, would go unnoticed in a random model."""
    key = jax.random.key(0)
    shape = ((4, 8), ("heads", "head_dim"), (32,), ("embed",))
    x = jax.random.normal(key, (2, 5, 32), dtype)
    weight = jax.random.normal(jax.random.key(1), (4, 8, 32)) * jnp.exp(jax.random.normal(key, (4, 8, 1)))
    q, scale = to_int8(weight, 2)
    layer = Projection(*shape, False, jnp.dtype(dtype), "int8")
    y = layer.apply({"params": {"weight": q, "scale": scale}}, x)
    expected = np.einsum("btd,nhd->btnh", np.asarray(x, np.float32), np.asarray(q) * np.asarray(scale)[..., None])
    assert y.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=tolerance * np.abs(expected).max())
    exact = np.einsum("btd,nhd->btnh", np.asarray(x, np.float32), np.asarray(weight))
    assert np.linalg.norm(np.asarray(y, np.float32) - exact) < 0.012 * np.linalg.norm(exact)


def test_logits_are_those_of_the_rounded_head():
    """A token's logit would carry another token's scale."""
    table = jax.random.normal(jax.random.key(0), (20, 16)) * jnp.arange(1.0, 21)[:, None]
    q, scale = to_int8(table, 1)
    x = jax.random.normal(jax.random.key(1), (3, 16))
    head = OutputHead(20, 16, jnp.float32, "int8")
    logits = head.apply({"params": {"weight": q, "scale": scale}}, x, method="logits")
    np.testing.assert_allclose(logits, x @ (np.asarray(q) * np.asarray(scale)[:, None]).T, rtol=1e-4, atol=1e-3)


def test_a_model_is_loaded_in_int8(checkpoint):
    """Weights would be rounded wrongly on their way from the file, or a matrix kept in float."""
    exact, rounded = models.load(checkpoint, "float32"), models.load(checkpoint, "float32", quantize="int8")
    kinds = {path[-1].key: leaf.dtype for path, leaf in jax.tree.leaves_with_path(rounded.params["layers_1"]["mlp"])}
    assert kinds == {"weight": jnp.int8, "scale": jnp.float32}
    assert ("scale" in rounded.params.get("lm_head", {})) == (not exact.config.tie_embeddings)
    layers = [model.params["layers_0"] for model in (exact, rounded)]
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(layer)) for layer in layers]
    assert sizes[1] < 0.40 * sizes[0]  # of rows of 32; 0.25 of wider ones
    np.testing.assert_array_equal(rounded.params["embed"]["weight"], exact.params["embed"]["weight"])
    reference = Decoder(exact.config).apply(
        {"params": dequantized(rounded.params)}, TOKENS, np.tile(np.arange(40), (2, 1)), method="forward_logits"
    )[0]
    logits = rounded.logits(TOKENS)
    np.testing.assert_allclose(logits, reference, atol=2e-4 * np.abs(reference).max())
    wanted = exact.logits(TOKENS)
    assert np.linalg.norm(logits - wanted) < 0.03 * np.linalg.norm(wanted)


def test_a_mesh_holds_the_same_int8_model(checkpoint):
    """A shard would be rounded with the scale of its own part of a row."""
    one = models.load(checkpoint, "float32", quantize="int8")
    split = models.load(checkpoint, "float32", make_mesh((2, 2, 2)), quantize="int8")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), split.params, one.params)
    query = split.params["layers_0"]["attn"]["q_proj"]
    assert query["scale"].addressable_shards[0].data.shape == (one.config.num_heads // 2, one.config.head_dim)
    assert query["weight"].addressable_shards[0].data.shape[-1] == 16
    np.testing.assert_allclose(split.logits(TOKENS), one.logits(TOKENS), atol=2e-4)


def test_float_weights_are_freed_one_by_one(checkpoint, monkeypatch):
    """Loading an int8 model would need the memory of the float one."""
    config, before = read_config(checkpoint), jax.live_arrays()
    held, original, most = {id(array) for array in before}, Int8Weights.keep, []

    def watched(self, x, targets, outputs):
        new = [a for a in jax.live_arrays() if id(a) not in held and a.dtype == jnp.float32]
        most.append(len([a for a in new if a.size >= x.size and a.shape[0] != config.vocab_size]))  # not the embedding
        return original(self, x, targets, outputs)

    monkeypatch.setattr(Int8Weights, "keep", watched)
    load_params(checkpoint, config, dtype="float32", quantize="int8")
    assert set(most) <= {0, 1} and most.count(1) >= 7 * config.num_layers  # 0 is the head's


@pytest.mark.slow
def test_random_int8_weights_are_of_the_size_of_others(checkpoint):
    """Speed would be measured on a model whose activations overflow or vanish."""
    config = dataclasses.replace(read_config(checkpoint), width=64)
    plain, drawn = init_params(config, dtype="float32"), init_params(config, dtype="float32", weights="int8")
    for ours, theirs in zip(jax.tree.leaves(dequantized(drawn)), jax.tree.leaves(plain), strict=True):
        assert ours.shape == theirs.shape
        assert float(np.std(ours)) == pytest.approx(float(np.std(theirs)), rel=0.1)
    shapes = abstract_params(config, np.dtype("float32"), weights="int8")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), drawn)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_orbax_keeps_rounded_weights(checkpoint, tmp_path, weights):
    """What was rounded once could not be kept."""
    model = models.load(checkpoint, "float32", quantize=weights)
    save_orbax(tmp_path / weights, model.params, model.config)
    again = restore_orbax(tmp_path / weights, make_mesh((1, 2, 2)), "float32", weights)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), again, model.params)
    with pytest.raises(ValueError, match=f"{weights} holds {weights} weights: ask for {weights} weights to load them"):
        models.load(tmp_path / weights)


def test_refusals(checkpoint, tmp_path):
    """Garbage would be written or restored, or the memory of the float model would be asked for in silence."""
    config = read_config(checkpoint)
    save_orbax(tmp_path / "float", load_params(checkpoint, config), config)
    with pytest.raises(ValueError, match=r"float holds Orbax weights that are not int8: int8 weights are made of safe"):
        models.load(tmp_path / "float", quantize="int8")
    with pytest.raises(ValueError, match="int8 weights are not written as safetensors"):
        export_hf(load_params(checkpoint, config, quantize="int8"), config, tmp_path / "again", "float32")
    with pytest.raises(ValueError, match="weights 'int3' is not supported; known: '', int8, int4"):
        models.load(checkpoint, quantize="int3")
    with pytest.raises(ValueError, match="int8 weights need dtype bfloat16 or float32: float16 overflows"):
        models.load(checkpoint, "float16", quantize="int8")


def cached(bfloat16=False, head_dim=64):
    config = models.ModelConfig(
        family="llama", vocab_size=264, width=32, ffn_width=64, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=head_dim, max_position=8192, tie_embeddings=True, bos_id=1, eos_ids=(2,),
    )  # fmt: skip
    context = empty_context(config, 1, 256, jnp.bfloat16 if bfloat16 else jnp.float32)
    keys = iter(jax.random.split(jax.random.key(0), 4))
    k, v = (tuple(jax.random.normal(next(keys), x.shape, x.dtype) for x in layers) for layers in (context.k, context.v))
    return dataclasses.replace(context, k=k, v=v, length=jnp.asarray([200]), filled=jnp.asarray([[200]]))


def test_an_int8_context_takes_half_the_memory_and_frees_the_other():
    """A context that just fits as int8 would not fit."""
    context = cached(bfloat16=True, head_dim=128)
    held = [*context.k, *context.v]
    size = sum(x.nbytes for x in jax.tree.leaves(context))
    small = quantize_context(context, INT8_LAYER)
    assert sum(x.nbytes for x in jax.tree.leaves(small)) <= 0.53 * size
    assert all(x.is_deleted() for x in held)
    assert small.capacity == 256 and small.length.tolist() == [200] and small.filled.tolist() == [[200]]


def test_a_large_channel_and_large_tokens_take_nobodys_precision():
    """Four bits of the channels themselves lose what the others say where one is large (KIVI, arXiv 2402.02750)."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(0, 1.5, (1, 2, 256, 1)))
    k, v = (jnp.asarray(rng.normal(0, 1, (1, 2, 256, 64)) * size, jnp.float32) for _ in range(2))
    k = k.at[..., 5].multiply(12)
    q = rng.normal(0, 1, (1, 2, 64, 32))
    q[:, :, 5] /= 12  # all channels are worth as much

    def error(told):
        return float(np.sqrt(np.mean(((np.asarray(told - k) @ q) / size) ** 2)))

    def rounded(kv):
        layer = kv_format(kv).quantize_layer(k, v)
        return restore_keys(layer["k"], "float32", scale=layer["k_scale"], rest=layer.get("k_rest"))

    step = jnp.max(jnp.abs(k), axis=-1, keepdims=True) / 7
    assert error(rounded("int4")) < 0.6 * error(jnp.round(k / step) * step)
    assert error(rounded("planes")) < error(rounded("int4")) / 10


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128])
def test_keys_of_any_head_are_kept_in_an_orthonormal_basis(head_dim):
    """Queries in it have the products that they had; another basis would change every answer."""
    basis = kv_format("int4").key_basis(head_dim)
    np.testing.assert_allclose(basis @ basis.T, np.eye(head_dim), atol=1e-5)
    assert np.abs(basis).max() < 2 * head_dim**-0.5, "every number has a share of every channel"


def test_planes_are_the_numbers_of_int4_and_what_they_leave():
    """The upper plane alone is what a cache in int4 would be; together they are as exact as eight bits."""
    context = cached()
    k, v = context.k[0], context.v[0]
    planes, alone = (kv_format(kv).quantize_layer(k, v) for kv in ("planes", "int4"))
    for name, values in alone.items():
        np.testing.assert_array_equal(np.asarray(planes[name]), np.asarray(values))
    eight = INT8_LAYER(k, v)
    exact = restore(eight["v"], "float32", scale=eight["v_scale"])
    told = restore(planes["v"], "float32", scale=planes["v_scale"], rest=planes["v_rest"])
    assert np.sqrt(np.mean((told - v) ** 2)) < 1.3 * np.sqrt(np.mean((exact - v) ** 2))
    assert np.abs(told - v).max() <= np.asarray(planes["v_scale"]).max() / 16


def test_one_layer_at_a_time_is_held_twice():
    """Rounding a context of 128K tokens would need the memory of one and a half."""
    context, alive = cached(), []
    kv = [*zip(context.k, context.v, strict=True)]

    def layer(k, v):
        alive.append([not pair[0].is_deleted() for pair in kv])
        return INT8_LAYER(k, v)

    quantize_context(context, layer)
    assert alive == [[True, True], [False, True]]


def test_keys_and_values_have_a_scale_for_each_head_and_token():
    """One token with large keys would take the precision of all others."""
    context = cached()
    k = np.asarray(context.k[0]) * np.exp(np.random.default_rng(0).normal(0, 3, (1, 2, 256, 1)))
    context = dataclasses.replace(context, k=(jnp.asarray(k, jnp.float32), context.k[1]))
    small = quantize_context(context, INT8_LAYER)
    assert small.k_scale[0].shape == (1, 2, 256)
    restored = np.asarray(small.k[0]) * np.asarray(small.k_scale[0])[..., None]
    error = np.linalg.norm(restored - k, axis=-1) / np.linalg.norm(k, axis=-1)
    assert error.max() < 0.012
