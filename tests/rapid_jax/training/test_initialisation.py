"""Initial circuits: if one of them is not there, training still runs, only it needs several times the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import ModelConfig, RopeConfig
from models.rope import rotate, rotation
from rapid_jax.training.initialisation import initial_parameters

CONFIG = ModelConfig("llama", 512, 192, 64, 2, 4, 4, 64, 4096, RopeConfig(theta=1e9), 1e-5, True)


@pytest.fixture(scope="module")
def params():
    return initial_parameters(CONFIG, jax.random.key(0))


def normed(params, tokens):
    x = params["embed"]["weight"][tokens]
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("head", "back"), [(0, 1), (1, 2)])
def test_first_layer_heads_look_a_fixed_number_of_tokens_back(params, head, back):
    tokens = jax.random.randint(jax.random.key(1), (64,), 0, 512)
    attn = params["layers_0"]["attn"]
    x = normed(params, tokens)
    turn = rotation(jnp.arange(64)[None], CONFIG.rope, 64)
    q, k = (rotate((x @ attn[n]["weight"][head].T)[None, :, None], *turn)[0, :, 0] for n in ("q_proj", "k_proj"))
    scores = np.array(q @ k.T) / 8
    scores[np.triu_indices(64, 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    assert np.diagonal(weights, -back).mean() > 0.4
    assert (scores.argmax(-1)[back:] == np.arange(64 - back)).mean() > 0.8


def test_tree_is_the_decoders_own(params):
    from flax import linen as nn

    from models.decoder import Decoder

    tokens = jnp.zeros((1, 1), jnp.int32)
    plain = nn.meta.unbox(jax.eval_shape(Decoder(CONFIG).init, jax.random.key(0), tokens, tokens))["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), plain)
