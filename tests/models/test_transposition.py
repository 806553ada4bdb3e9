"""Matrices stored [in, out]: another order of the same numbers, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.checkpoint import export_hf, save_orbax
from models.formats import format_of
from models.loading import as_loaded
from models.sharding import make_mesh
from models.transposition import for_few_rows
from rapid_jax.saving.checksums import weights_fingerprint

TOKENS = np.arange(2, 26).reshape(2, 12)
# Axes of one size: an order that was guessed from shapes would go unnoticed.
ALIKE = dict(width=16, ffn_width=16, num_heads=16, num_kv_heads=16, head_dim=16)
BIASED = dict(family="qwen2", qkv_bias=True, tie_embeddings=False)


@pytest.fixture(scope="module", params=[{}, ALIKE, BIASED], ids=["grouped", "axes alike", "biased, untied"])
def checkpoint(request, make_tiny_checkpoint):
    return make_tiny_checkpoint(**request.param)


@pytest.mark.parametrize("mesh", [None, (2, 1, 4)])
def test_the_model_is_the_same(checkpoint, mesh):
    """Logits, and every weight by its name, on one device and on several; the arrays are taken over."""
    split = mesh and make_mesh(mesh)
    plain, given = models.load(checkpoint, mesh=split), models.load(checkpoint, mesh=split)
    before = {keys: np.asarray(x) for keys, x in as_loaded(plain.params, plain.config)}
    wanted, fingerprint = plain.logits(TOKENS), weights_fingerprint(plain)
    model = for_few_rows(given)
    query, out, down = (model.params["layers_1"][part][name] for part, name in NAMED)
    config = model.config
    assert query["kernel"].shape == (config.width, config.num_heads, config.head_dim)
    assert out["kernel"].shape == (config.num_heads, config.head_dim, config.width)
    assert down["kernel"].shape == (config.ffn_width, config.width) and "weight" not in down
    if split:
        assert query["kernel"].sharding.shard_shape(query["kernel"].shape)[1] == config.num_heads // 4
    np.testing.assert_allclose(model.logits(TOKENS), wanted, atol=2e-5 * np.abs(wanted).max())
    after = {keys: np.asarray(x) for keys, x in as_loaded(model.params, config)}
    assert before.keys() == after.keys() and len(before) == len(jax.tree.leaves(model.params))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, str(name))
    assert weights_fingerprint(model) == fingerprint, "documents that the one has saved can be opened by the other"
    assert given.params["layers_1"]["mlp"]["down_proj"]["weight"].is_deleted()


NAMED = (("attn", "q_proj"), ("attn", "o_proj"), ("mlp", "down_proj"))


def test_bfloat16_stays(make_tiny_checkpoint):
    """It has a form of its own on a CPU."""
    model = models.load(make_tiny_checkpoint(), dtype="bfloat16")
    assert for_few_rows(model) is model


@pytest.mark.parametrize("tied", [True, False])
def test_of_narrow_weights_the_output_projection_is_transposed_where_it_is_float(make_tiny_checkpoint, tied):
    """A tied embedding is; matrices of fewer bits, and what is only looked up, stay as they are."""
    checkpoint = make_tiny_checkpoint(tie_embeddings=tied)
    wanted = models.load(checkpoint, quantize="int8").logits(TOKENS)
    model = for_few_rows(models.load(checkpoint, quantize="int8"))
    assert model.decoder.weights == "int8" and set(model.params["layers_0"]["mlp"]["up_proj"]) == {"weight", "scale"}
    assert set(model.params["embed"]) == ({"kernel"} if tied else {"weight"})
    np.testing.assert_allclose(model.logits(TOKENS), wanted, atol=2e-5 * np.abs(wanted).max())


def test_accelerators_keep_the_order_of_the_file(make_tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    model = models.load(make_tiny_checkpoint(), dtype="float32")
    assert for_few_rows(model) is model


def test_an_engine_computes_with_it_from_any_source(make_tiny_checkpoint, tmp_path):
    """Safetensors and Orbax alike; a drafter of its own too."""
    from rapid_jax import Engine

    hf = make_tiny_checkpoint()
    model = models.load(hf)
    save_orbax(tmp_path / "orbax", model.params, model.config)
    models.load_tokenizer(hf).hf.save_pretrained(tmp_path / "orbax")
    engine = Engine.load(str(tmp_path / "orbax"), str(hf))
    for model in (engine.target, engine.drafter):
        assert format_of(model.params["layers_0"]["attn"]["k_proj"]).name == model.decoder.weights == "transposed"
        assert "transposed" not in repr(model)
        assert "tokenizer" in vars(model), "it would be read again"
    assert engine.drafter is not engine.target


def test_an_engines_weights_are_written_as_they_were_loaded(make_tiny_checkpoint, tmp_path):
    """Safetensors and Orbax have [out, in], whatever lies in memory."""
    plain = models.load(make_tiny_checkpoint())
    wanted = {keys: np.asarray(x) for keys, x in as_loaded(plain.params, plain.config)}
    model = for_few_rows(plain)
    export_hf(model.params, model.config, tmp_path / "hf", "float32")
    save_orbax(tmp_path / "orbax", model.params, model.config)
    for folder in ("hf", "orbax"):
        params = models.load(tmp_path / folder).params
        for keys, x in as_loaded(params, model.config):
            np.testing.assert_array_equal(x, wanted[keys], str(keys))
        assert "kernel" not in params["embed"]


def test_a_product_of_other_numbers_is_computed_in_theirs():
    """The accumulated dtype is asked for, as in other formats."""
    from models.formats import weight_format
    from models.formats.base import Matrix

    matrix = Matrix((3, 4), ("heads", "head_dim"), (8,), ("embed",), std=1.0)
    kernel = jnp.arange(96, dtype=jnp.float32).reshape(8, 3, 4)
    x = jnp.ones((2, 5, 8), jnp.bfloat16)
    y = weight_format("transposed").product(x, {"kernel": kernel}, matrix, jnp.float32)
    assert y.shape == (2, 5, 3, 4) and y.dtype == jnp.float32
    np.testing.assert_allclose(y[1, 2], np.asarray(kernel).sum(axis=0), rtol=1e-2)
