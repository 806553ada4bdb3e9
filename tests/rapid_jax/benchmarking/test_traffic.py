"""Bytes of a step, against numbers computed by hand."""

import dataclasses

import numpy as np
import pytest

from models import ModelConfig, init_params
from models.decoder import Decoder
from models.sharding import make_mesh
from rapid_jax.benchmarking.traffic import Forward, kv_bytes_per_token, mean_tails, step_bytes, weight_bytes

# A layer: q and o 2 x 8 x 8 x 32, k and v 2 x 4 x 8 x 32, three of 64 x 32, two norms of 32; then the final norm.
PARAMETERS = 2 * (4096 + 2048 + 6144 + 64) + 32
EMBEDDING = 264 * 32


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    config: ModelConfig
    decoder: Decoder
    params: dict


def make(dtype="float32", mesh=None, **fields):
    values = dict(
        family="llama", vocab_size=264, width=32, ffn_width=64, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8,
        max_position=8192, tie_embeddings=True,
    )  # fmt: skip
    config = ModelConfig(**{**values, **fields})
    params = init_params(config, dtype=dtype, mesh=mesh)
    return Model(config, Decoder(config, dtype, mesh), params)


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_weights_are_read_once_and_an_input_embedding_is_not(dtype, size):
    """A 128K vocabulary would otherwise count for a gigabyte that no step reads."""
    assert weight_bytes(make(dtype)) == size * (PARAMETERS + EMBEDDING)
    assert weight_bytes(make(dtype, tie_embeddings=False)) == size * (PARAMETERS + EMBEDDING)  # lm_head, not embed
    assert kv_bytes_per_token(make(dtype)) == 2 * 2 * 4 * 8 * size


def test_a_step_reads_what_its_forwards_read():
    """One row, and two rows that share the target's document while each has passages of its own."""
    model, weights, kv = make(), 4 * (PARAMETERS + EMBEDDING), 512
    assert step_bytes([Forward(model, [100], [7.5])]) == weights + kv * 100 + kv * 7.5
    target, drafts = Forward(model, [100], [5, 6]), Forward(model, [30, 40], [5, 6], times=3)
    assert step_bytes([target]) == weights + kv * 111
    assert step_bytes([target, drafts]) == weights + kv * 111 + 3 * (weights + kv * 81)


def test_int8_weights_and_contexts_count_as_what_is_read():
    """A share of the memory's bandwidth would be reported that nobody used."""
    config = make().config
    params = init_params(config, dtype="bfloat16", weights="int8")
    model = Model(config, Decoder(config, np.dtype("bfloat16"), weights="int8"), params)
    norms = 2 * 32 * 5
    scales = 4 * 2 * (64 + 32 + 32 + 32 + 64 + 64 + 32)
    weights = (PARAMETERS - norms // 2) + 2 * EMBEDDING + norms + scales  # tied, so that the head is not rounded
    assert weight_bytes(model) == weights
    assert kv_bytes_per_token(model, "int8") == 2 * 2 * 4 * (8 + 4)
    assert step_bytes([Forward(model, [100], [7], kv="int8")]) == weights + 192 * 100 + 256 * 7


def test_devices_of_the_data_axis_each_read_weights_and_the_shared_document():
    """Their bandwidth is counted together, so their bytes must be."""
    model = make(mesh=make_mesh((2, 1, 2)))
    weights, kv = 4 * (PARAMETERS + EMBEDDING), 512
    assert step_bytes([Forward(model, [100], [5, 6])]) == 2 * weights + kv * (2 * 100 + 11)
    assert step_bytes([Forward(model, [30, 40], [5, 6])]) == 2 * weights + kv * (70 + 11)


def test_tails_are_those_of_the_middle_of_a_run():
    assert mean_tails([[1] * 10, [1] * 4], 16) == [18, 12]
