"""Rotated keys that move: rotations add up, whatever stretched them."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.config import RopeConfig
from models.rope import rotate, rotation, turn

ROPES = {
    "default": RopeConfig(),
    "linear": RopeConfig("linear", factor=4.0),
    "llama3": RopeConfig("llama3", 500_000.0, 8.0, 64, 1.0, 4.0),
    "yarn": RopeConfig("yarn", 1_000_000.0, 4.0, 128, attention_factor=1.1386),
}


@pytest.mark.parametrize("name", ROPES)
def test_turned_keys_are_those_that_are_rotated_anew(name):
    """The sinks of a sliding window move with it, by another distance in every row."""
    config = ROPES[name]
    keys = np.random.default_rng(0).normal(size=(2, 5, 3, 16)).astype(np.float32)  # [B,S,K,H], not rotated yet
    positions = jnp.array([[0, 1, 2, 3, 4], [7, 3, 11, 0, 2]], jnp.int32)
    distance = jnp.array([0, 913], jnp.int32)

    def at(positions):
        return jnp.swapaxes(rotate(jnp.asarray(keys), *rotation(positions, config, 16)), 1, 2)

    found = turn(at(positions), distance, config)
    np.testing.assert_allclose(found, at(positions + distance[:, None]), atol=5e-4)
    assert np.abs(found[1] - at(positions)[1]).max() > 0.5, "the second row must have moved"


def test_a_turn_keeps_the_type_of_the_cache():
    """Sinks in float32 beside a window in bfloat16 would change what is compiled."""
    keys = jnp.ones((1, 2, 4, 8), jnp.bfloat16)
    assert turn(keys, jnp.array([5], jnp.int32), RopeConfig()).dtype == jnp.bfloat16
