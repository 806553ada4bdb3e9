"""Where a prefill puts each token: the host's arithmetic against what the device has written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ModelConfig
from models.cache import Block, append_chunk, empty_context
from models.sharding import make_mesh
from models.striping import token_slots

CONFIG = ModelConfig(
    family="llama", vocab_size=8, width=8, ffn_width=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2,
    max_position=512,
)  # fmt: skip


def test_each_shard_takes_an_equal_share_of_every_chunk():
    """Two chunks of four tokens over two shards of six slots."""
    assert token_slots([4, 4], 2, 12).tolist() == [0, 1, 6, 7, 2, 3, 8, 9]
    assert token_slots([4, 4], 1, 12).tolist() == list(range(8))
    assert token_slots([], 4, 8).shape == (0,)


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_slots_are_those_that_the_chunks_are_written_to(shards):
    """A token looked up in a slot of another one would be a wrong word at a wrong place."""
    mesh = None if shards == 1 else make_mesh((1, shards, 1))
    chunks, capacity = [64, 64, 32], 192
    context = empty_context(CONFIG, 1, capacity, jnp.float32, mesh)
    append = jax.jit(append_chunk, static_argnames="mesh")
    start = 0
    for chunk in chunks:
        tokens = jnp.broadcast_to(jnp.arange(start, start + chunk, dtype=jnp.float32)[:, None], (1, 1, chunk, 2))
        lengths = jnp.array([start + chunk], jnp.int32)
        context = append(context, Block((tokens,), (-tokens,)), jnp.int32(start), lengths, mesh=mesh)
        start += chunk
    slots = token_slots(chunks, shards, capacity)
    np.testing.assert_array_equal(np.asarray(context.k[0])[0, 0, slots, 0], np.arange(start))
    np.testing.assert_array_equal(np.asarray(context.v[0])[0, 0, slots, 1], -np.arange(start))


@pytest.mark.parametrize(
    "chunks, shards, capacity, message",
    [
        ([6], 4, 8, "a chunk of 6 tokens does not split over 4 shards"),
        ([4], 4, 10, "a context of 10 tokens does not split over 4 shards"),
        ([8, 8], 2, 12, "chunks of 16 tokens do not fit a context of 12 slots"),
    ],
)
def test_what_does_not_fit_is_refused(chunks, shards, capacity, message):
    """Slots that do not exist would be gathered as garbage."""
    with pytest.raises(ValueError, match=message):
        token_slots(chunks, shards, capacity)
