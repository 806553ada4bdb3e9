"""Drafts over the upper plane of the target's keys and values: their laws, and the cache that they leave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cache import quantize_context
from models.decoder import hidden_states, output_logits
from models.formats import kv_format
from models.formats.widening import restore, restore_keys
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.programs import copied
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls
from rapid_jax.decoding.step import step
from rapid_jax.drafting import PlanesDrafter
from tests.rapid_jax.conftest import VOCAB
from tests.rapid_jax.drafting.test_magicdec import GAMMA, ROWS, begun, model_of, read

STEPS = 4


@functools.cache
def contexts():
    """The document's cache in two planes, and in floats that are its upper plane's numbers."""
    _, context, _ = read("llama3")
    small = quantize_context(copied(context), kv_format("planes").quantize_layer)
    k = tuple(restore_keys(x, "float32", scale=scale) for x, scale in zip(small.k, small.k_scale, strict=True))
    v = tuple(restore(x, "float32", scale=scale) for x, scale in zip(small.v, small.v_scale, strict=True))
    return small, type(small)(k, v, small.length, small.filled)


def start(*, early_stop=False, first_candidates=1):
    model, (_, _, tail), context = model_of("llama3"), read("llama3"), contexts()[0]
    drafter = PlanesDrafter(model.decoder, GAMMA, VOCAB, first_candidates)
    spec, state = begun(model, tail, drafter, copied(tail), early_stop)
    return spec, (model.params, context), state


@pytest.mark.parametrize("options", [{}, dict(early_stop=True), dict(first_candidates=3)], ids=str)
def test_drafts_read_the_upper_plane_and_what_the_target_has_committed(options):
    """In every step: the laws of one forward over the upper plane's numbers and the target's own tail."""
    model, (small, upper) = model_of("llama3"), contexts()
    spec, drafter_model, state = start(**options)
    controls = Controls.of(warping=Warping.of(1.0))
    once, draft = jax.jit(functools.partial(step, spec)), jax.jit(spec.drafter.draft)
    assert small.k[0].dtype == jnp.int4 and small.k_rest is not None
    for index in range(STEPS):
        cache = getattr(state.drafter_cache, "tail", state.drafter_cache)
        for ours, theirs in zip(jax.tree.leaves(cache), jax.tree.leaves(state.target_tail), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        keys = jax.random.split(jax.random.key(index), len(ROWS))
        drafted = draft(drafter_model, state.drafter_cache, state.last_tokens, keys, controls.warping)[0]
        tokens = jnp.concatenate([state.last_tokens[:, -1:], drafted.tokens[:, :-1]], axis=1)
        positions = next_positions(GAMMA, upper, state.target_tail)
        hidden, _ = hidden_states(model.decoder, model.params, tokens, positions, upper, state.target_tail)
        laws = jax.nn.softmax(output_logits(model.decoder, model.params, hidden), axis=-1)
        for row, proposed in enumerate(drafted.lengths.tolist()):
            np.testing.assert_allclose(drafted.probs[row, :proposed], laws[row, :proposed], atol=2e-4)
        state = once(model.params, small, drafter_model, controls, state)
    assert state.counters.accepted.sum() > 0 and (state.num_tokens > STEPS).any()
