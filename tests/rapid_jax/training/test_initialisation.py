"""Initial circuits: if one of them is not there, training still runs, only it needs several times the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from models.config import ModelConfig, RopeConfig
from models.decoder import Decoder
from models.rope import rotate, rotation
from rapid_jax.training.initialisation import initial_parameters

CONFIG = ModelConfig("llama", 512, 192, 64, 2, 4, 4, 64, 4096, RopeConfig(theta=1e9), 1e-5, True)
NAMES, VALUES = np.arange(400, 450), np.arange(450, 500)


@pytest.fixture(scope="module")
def params():
    return initial_parameters(CONFIG, jax.random.key(0), NAMES, VALUES)


def attention(params, layer, head, x, tokens):
    """Causal attention weights [T,T] of one head over the normed residual stream x [T,D]."""
    attn = params[f"layers_{layer}"]["attn"]
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
    turn = rotation(jnp.arange(len(tokens))[None], CONFIG.rope, 64)
    q, k = (rotate((x @ attn[n]["weight"][head].T)[None, :, None], *turn)[0, :, 0] for n in ("q_proj", "k_proj"))
    scores = jnp.where(jnp.tril(jnp.ones((len(tokens),) * 2, bool)), q @ k.T / 8, -jnp.inf)
    return np.asarray(jax.nn.softmax(scores, axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "back"), [(0, 1), (1, 2), (2, 3)])
def test_first_layer_heads_look_a_fixed_number_of_tokens_back(params, head, back):
    tokens = jax.random.randint(jax.random.key(1), (64,), 0, 512)
    weights = attention(params, 0, head, params["embed"]["weight"][tokens], tokens)
    assert np.diagonal(weights, -back).mean() > 0.4
    assert (weights.argmax(-1)[back:] == np.arange(64 - back)).mean() > 0.8


@pytest.mark.slow
def test_a_head_of_layer_1_finds_the_latest_name(params):
    tokens = np.asarray(jax.random.randint(jax.random.key(2), (64,), 0, 400)).copy()
    tokens[[5, 20, 40]] = [400, 410, 420]
    weights = attention(params, 1, 2, params["embed"]["weight"][tokens], tokens)
    for position, latest in ((8, 5), (19, 5), (22, 20), (30, 20), (45, 40)):
        assert weights[position, latest] > 0.8


def test_tree_is_the_decoders_own(params):
    tokens = jnp.zeros((1, 1), jnp.int32)
    plain = nn.meta.unbox(jax.eval_shape(Decoder(CONFIG).init, jax.random.key(0), tokens, tokens))["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), plain)
