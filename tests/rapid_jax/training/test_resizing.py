"""Resizing: a grown model that started as something else would throw the trained one away."""

import dataclasses

import jax
import numpy as np
import pytest

from models.config import ModelConfig, RopeConfig
from models.decoder import Decoder, hidden_states, output_logits
from models.params import init_params
from rapid_jax.training.resizing import resized

SMALL = ModelConfig("llama", 32, 16, 12, 2, 2, 2, 8, 64, RopeConfig(theta=1e4), 1e-5, True)
LARGE = dataclasses.replace(SMALL, num_layers=4, ffn_width=20)


def logits(config, params):
    decoder = Decoder(config)
    tokens = np.arange(10, dtype=np.int32)[None]
    return output_logits(decoder, params, hidden_states(decoder, params, tokens, tokens)[0])


@pytest.mark.slow
def test_a_grown_model_computes_what_it_grew_out_of():
    params = init_params(SMALL, seed=1, dtype="float32")
    grown = resized(params, SMALL, LARGE, init_params(LARGE, seed=2, dtype="float32"))
    np.testing.assert_allclose(logits(LARGE, grown), logits(SMALL, params), atol=1e-5)


@pytest.mark.slow
def test_what_was_added_can_learn():
    """With both projections of a layer at zero no gradient would ever reach it."""
    params = init_params(SMALL, seed=1, dtype="float32")
    grown = resized(params, SMALL, LARGE, init_params(LARGE, seed=2, dtype="float32"))
    gradient = jax.grad(lambda p: (logits(LARGE, p) ** 2).sum())(grown)
    for part, name in (("attn", "o_proj"), ("mlp", "down_proj")):
        assert np.abs(gradient["layers_3"][part][name]["weight"]).max() > 0
    assert np.abs(gradient["layers_0"]["mlp"]["down_proj"]["weight"][:, SMALL.ffn_width :]).max() > 0


@pytest.mark.slow
def test_a_smaller_model_keeps_the_first_layers_and_units():
    params = init_params(LARGE, seed=1, dtype="float32")
    shrunk = resized(params, LARGE, SMALL, init_params(SMALL, seed=2, dtype="float32"))
    assert set(shrunk) == {"embed", "final_norm", "layers_0", "layers_1"}
    kept = shrunk["layers_1"]["mlp"]["gate_proj"]["weight"]
    np.testing.assert_array_equal(kept, params["layers_1"]["mlp"]["gate_proj"]["weight"][: SMALL.ffn_width])
    assert jax.tree.map(np.shape, shrunk) == jax.tree.map(np.shape, init_params(SMALL))


@pytest.mark.slow
def test_a_model_of_another_width_is_refused():
    other = dataclasses.replace(SMALL, width=32)
    with pytest.raises(ValueError, match="layers and ffn_width alone"):
        resized(init_params(SMALL), SMALL, other, init_params(other))
