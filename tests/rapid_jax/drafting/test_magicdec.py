"""MagicDec: q against a cache that is rotated from scratch, over steps in which the window slides; meshes; int8."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache, TailCache
from models.config import RopeConfig
from models.rope import inverse_frequencies
from models.sharding import make_mesh, tail_spec
from models.striping import token_slots
from rapid_jax.config.speculation import AcceptanceRule
from rapid_jax.decoding.buckets import chunk_sizes
from rapid_jax.decoding.loop import initial_state
from rapid_jax.decoding.prefill import prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.step import step
from rapid_jax.drafting import EarlyStopDrafter, MagicDecDrafter
from rapid_jax.drafting.magicdec import take_window
from tests.marks import slow
from tests.rapid_jax.conftest import VOCAB, make_model

CHUNK, GAMMA, STEPS, SINKS = 32, 3, 5, 2
DOCUMENT = np.random.default_rng(0).integers(0, VOCAB, 75).tolist()
ROWS = [[1, 6, 0, 3, 5, 5, 2], [7, 4], [2, 2, 1, 0], [5, 0, 6]]
ROPES = {
    "default": RopeConfig(theta=100.0),
    "llama3": RopeConfig("llama3", 500.0, 8.0, 32, 1.0, 4.0),
    "yarn": RopeConfig("yarn", 500.0, 4.0, 32, attention_factor=1.1386),
}


@functools.cache
def model_of(rope):
    return make_model(5, num_layers=2, num_heads=4, num_kv_heads=2, rope=ROPES[rope])


@functools.cache
def read(rope):
    """(programs, the document's cache, tails without the last token)."""
    model, programs = model_of(rope), Programs()
    settings = dict(chunk=CHUNK, dtype=jnp.float32)
    context = prefill_context(programs, model.decoder, model.params, [DOCUMENT], **settings)
    tail = prefill_tail(
        programs, model.decoder, model.params, context, [row[:-1] for row in ROWS], capacity=48, **settings
    )
    return programs, context, tail


def taken(rope, window, context=None, sinks=SINKS):
    programs, own, tail = read(rope)
    sizes = dict(tokens=[len(DOCUMENT)], chunk=CHUNK, sinks=sinks, window=window)
    return take_window(programs, own if context is None else context, tail, **sizes)


def turned(keys, positions, config):
    """Keys [K,S,H] times the rotations of these positions, in float64 and complex numbers; no scale."""
    keys = np.asarray(keys, np.float64)
    half = keys.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * np.float64(inverse_frequencies(config, 2 * half))[None]
    pairs = (keys[..., :half] + 1j * keys[..., half:]) * np.exp(1j * angles)[None]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


@functools.cache
def forward_of(rope):
    model = model_of(rope)
    return jax.jit(functools.partial(model.decoder.apply, {"params": model.params}, method="forward_logits"))


def law(rope, text, drafted, window):
    """The laws [gamma,V] of drafted tokens behind a text of which only sinks and window are seen, from scratch.

    The target's keys and values of the whole text come from one plain forward; the kept ones are un-rotated and rotated
    at positions 0..n-1.
    """
    size = 160
    known = len(text) - 1  # the last token comes with the drafted ones
    ids = jnp.array([text[:known] + [0] * (size - known)], jnp.int32)
    _, block = forward_of(rope)(ids, jnp.arange(size, dtype=jnp.int32)[None])
    kept = np.arange(known)
    if known > SINKS + window:
        kept = np.concatenate([kept[:SINKS], kept[-window:]])
    places = np.arange(len(kept))

    def padded(layer):
        return jnp.asarray(np.pad(layer, ((0, 0), (0, size - len(kept)), (0, 0)))[None], jnp.float32)

    k = [turned(turned(np.asarray(x)[0][:, kept], -kept, ROPES[rope]), places, ROPES[rope]) for x in block.k]
    cache = TailCache(
        tuple(map(padded, k)),
        tuple(padded(np.asarray(x)[0][:, kept]) for x in block.v),
        jnp.array([len(kept)], jnp.int32),
    )
    tokens = [text[-1], *drafted[:-1]]
    positions = len(kept) + jnp.arange(len(tokens), dtype=jnp.int32)[None]
    return np.asarray(jax.nn.softmax(forward_of(rope)(jnp.array([tokens], jnp.int32), positions, cache)[0][0]))


def begun(model, tail, drafter, cache, early_stop):
    """(spec, state before the first step) of ROWS, with a drafter that may end its drafts early."""
    if early_stop:
        drafter = EarlyStopDrafter(drafter, 0.4)
        cache = drafter.initial_cache(cache)
    spec = StepSpec(model.decoder, drafter, AcceptanceRule(residual="exact"))
    last = np.array([row[-2:] for row in ROWS], np.int32)
    return spec, initial_state(last, tail, cache, budget=np.full(len(ROWS), 32, np.int32), capacity=32, seed=3)


def start(rope, window, *, early_stop=False, first_candidates=1):
    """(spec, what the drafter reads, state before the first step)."""
    model = model_of(rope)
    _, context, tail = read(rope)
    sinks, cache = taken(rope, window)
    drafter = MagicDecDrafter(model.decoder, GAMMA, VOCAB, first_candidates)
    spec, state = begun(model, tail, drafter, cache, early_stop)
    return spec, (model.params, sinks), state


def run(rope, window, check, **options):
    """Steps; check(draft, texts) before each. Returns the last state."""
    model, (_, context, _) = model_of(rope), read(rope)
    spec, drafter_model, state = start(rope, window, **options)
    controls = Controls.of(warping=Warping.of(1.0))
    once = jax.jit(functools.partial(step, spec))
    draft = jax.jit(spec.drafter.draft)
    for index in range(STEPS):
        texts = [
            DOCUMENT + row + out[:count].tolist()
            for row, out, count in zip(ROWS, np.asarray(state.output), state.num_tokens.tolist(), strict=True)
        ]
        keys = jax.random.split(jax.random.key(index), len(ROWS))
        check(draft(drafter_model, state.drafter_cache, state.last_tokens, keys, controls.warping)[0], texts)
        state = once(model.params, context, drafter_model, controls, state)
    return state


@pytest.mark.parametrize(
    "rope, window, options",
    [
        slow("default", 8, {}),
        slow("llama3", 8, {}),
        slow("yarn", 8, {}),
        slow("yarn", 4, dict(early_stop=True, first_candidates=3)),
        slow("llama3", 78, {}),  # some rows have not filled the ring at first, and wrap around later
    ],
)
def test_q_is_the_law_over_sinks_and_window_at_positions_in_the_cache(rope, window, options):
    """In every step: the window slides, the sinks come along, what is committed is the target's own."""
    slid = []

    def check(draft, texts):
        columns = map(np.asarray, (draft.tokens, draft.probs, draft.lengths))
        for text, tokens, probs, length in zip(texts, *columns, strict=True):
            expected = law(rope, text, tokens[:length].tolist(), window)
            np.testing.assert_allclose(probs[:length], expected, atol=2e-3)
            slid.append(max(len(text) - 1 - SINKS - window, 0))

    state = run(rope, window, check, **options)
    assert (state.counters.accepted > 0).any()
    assert (state.counters.accepted < state.counters.tested).any() or window > 8
    assert len(set(slid)) > STEPS, "the window must have moved, by another distance in every row"


@pytest.mark.slow
def test_a_window_over_everything_drafts_what_the_target_says():
    """Then q is p: no draft is rejected, the sampled ones neither."""
    state = run("llama3", 4096, lambda draft, texts: None)
    assert state.counters.accepted.tolist() == state.counters.tested.tolist() == [GAMMA * STEPS] * len(ROWS)
    assert state.drafter_cache.dropped.tolist() == [0] * len(ROWS)


def test_the_window_has_no_more_slots_than_anything_could_fill():
    """4,096 slots for a question about a page would be memory for nothing."""
    _, context, tail = read("default")
    sinks, window = taken("default", 4096)
    assert window.capacity == context.capacity + tail.capacity and sinks.capacity == SINKS
    _, small = taken("default", 8)
    assert small.capacity == 8 and small.k[0].shape[0] == len(ROWS)


def test_more_sinks_than_the_document_has_are_all_of_it():
    """What lies behind a short document is the question, which belongs to the window."""
    programs, model = Programs(), model_of("default")
    settings = dict(chunk=CHUNK, dtype=jnp.float32)
    context = prefill_context(programs, model.decoder, model.params, [[3, 1, 4]], **settings)
    tail = prefill_tail(programs, model.decoder, model.params, context, [[1, 5, 2]], capacity=16, **settings)
    sinks, window = take_window(programs, context, tail, tokens=[3], chunk=CHUNK, sinks=5, window=8)
    assert sinks.length.tolist() == window.length.tolist() == [3] and window.dropped.tolist() == [0]
    np.testing.assert_array_equal(sinks.k[1][:, :, :3], context.k[1][:, :, :3])
    np.testing.assert_array_equal(window.v[1][:, :, :3], tail.v[1][:, :, :3])


@pytest.mark.parametrize("shape", [(1, 4, 2), (2, 2, 2), (1, 8, 1)])
def test_a_striped_context_gives_the_same_window(shape):
    """Slots of other shards must not be read as one's own; the window itself lies whole on every shard."""
    mesh = make_mesh(shape)
    _, context, tail = read("default")
    slots = token_slots(chunk_sizes(len(DOCUMENT), CHUNK), shape[1], context.capacity)
    spread = np.zeros(context.capacity, int)
    spread[slots] = np.arange(len(slots))

    def placed(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    k, v = (placed([x[:, :, spread] for x in layers], P(None, "model", "context")) for layers in (context.k, context.v))
    filled = placed(jnp.zeros((1, shape[1]), jnp.int32), P())  # only its shape is read
    own = ContextCache(tuple(k), tuple(v), placed(context.length, P()), filled)
    kv, number = tail_spec(len(ROWS)), P("data")
    spread_tail = TailCache(placed(tail.k, kv), placed(tail.v, kv), placed(tail.length, number))
    sizes = dict(tokens=[len(DOCUMENT)], chunk=CHUNK, sinks=SINKS, window=70)
    programs = Programs()
    found = take_window(programs, own, spread_tail, **sizes, mesh=mesh)
    expected = taken("default", 70)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1].k[0].sharding.is_equivalent_to(NamedSharding(mesh, kv), 4)
    (program,) = programs.compiled.values()
    text = program.executable.as_text()
    assert "all-reduce" in text and "all-gather" not in text, "only the window may go over the wire"


def test_an_int8_context_gives_a_window_of_real_keys():
    """Integers without their scales would be keys a hundred times too long."""
    _, context, _ = read("default")

    def quantised(layer):
        scale = jnp.max(jnp.abs(layer), axis=-1) / 127 + 1e-9
        return jnp.round(layer / scale[..., None]).astype(jnp.int8), scale

    k, k_scale = zip(*map(quantised, context.k), strict=True)
    v, v_scale = zip(*map(quantised, context.v), strict=True)
    small = dataclasses.replace(context, k=k, v=v, k_scale=k_scale, v_scale=v_scale)
    real = dataclasses.replace(
        context,
        k=tuple(x * s[..., None] for x, s in zip(k, k_scale, strict=True)),
        v=tuple(x * s[..., None] for x, s in zip(v, v_scale, strict=True)),
    )
    for one, other in zip(
        *map(jax.tree.leaves, (taken("default", 60, small), taken("default", 60, real))), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)
