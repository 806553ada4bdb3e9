"""Drafts over pages of the target's own cache: q from scratch, the choice's age, and what is left out of the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cache import TailCache
from models.pages import Pages
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls
from rapid_jax.decoding.step import step
from rapid_jax.drafting import PagesDrafter
from rapid_jax.drafting.pages import begin_pages
from tests.rapid_jax.conftest import VOCAB
from tests.rapid_jax.drafting.test_magicdec import DOCUMENT, GAMMA, ROWS, begun, forward_of, model_of, read

PAGE, STEPS, SIZE = 4, 5, 160


def start(pages, *, renewal=2, early_stop=False, first_candidates=1):
    model = model_of("llama3")
    _, context, tail = read("llama3")
    drafter = PagesDrafter(model.decoder, GAMMA, VOCAB, first_candidates, pages=pages, renewal=renewal)
    spec, state = begun(model, tail, drafter, begin_pages(context, tail, pages), early_stop)
    return spec, (model.params, context), state


def run(pages, check, **options):
    """Steps; check(index, draft, cache that it read, texts) in each. Returns the last state."""
    model, (_, context, _) = model_of("llama3"), read("llama3")
    spec, drafter_model, state = start(pages, **options)
    controls = Controls.of(warping=Warping.of(1.0))
    once, draft = jax.jit(lambda *args: step(spec, *args)), jax.jit(spec.drafter.draft)
    for index in range(STEPS):
        texts = [
            DOCUMENT + row + out[:count].tolist()
            for row, out, count in zip(ROWS, np.asarray(state.output), state.num_tokens.tolist(), strict=True)
        ]
        keys = jax.random.split(jax.random.key(index), len(ROWS))
        drafted = draft(drafter_model, state.drafter_cache, state.last_tokens, keys, controls.warping)[0]
        state = once(model.params, context, drafter_model, controls, state)
        cache = state.drafter_cache  # what a step chose it leaves behind
        check(index, drafted, getattr(cache, "tail", cache).chosen, texts)
    return state


def law(text, drafted, chosen, row, *, all_first):
    """Laws [gamma,V] of drafted tokens, from one plain forward over the text whose keys are picked by hand.

    Args:
      text: with the newest token.
      drafted: tokens of the draft.
      chosen, row: pages, of which a row.
      all_first: the first law is over everything.
    """
    known, behind = len(text) - 1, len(text) - 1 - len(DOCUMENT)
    ids = jnp.array([text[:known] + [0] * (SIZE - known)], jnp.int32)
    _, block = forward_of("llama3")(ids, jnp.arange(SIZE, dtype=jnp.int32)[None])
    seen = int(chosen.filled[row, 0])

    def places(layer, head):
        """Of what a row's copies are, told by their keys, and then all tokens behind the document."""
        whole = np.asarray(block.k[layer])[0, head, : len(DOCUMENT)]
        near = np.abs(np.asarray(chosen.k[layer])[row, head, :seen, None] - whole[None]).sum(axis=2)
        assert near.min(axis=1).max() < 1e-3, "a copy of a key of the document"
        found = [*near.argmin(axis=1).tolist(), *range(len(DOCUMENT), known)]
        assert len(set(found)) == len(found), "nothing is seen twice"
        return found

    def picked(layers):
        found = []
        for index, layer in enumerate(layers):
            heads = [np.asarray(layer)[0, head, places(index, head)] for head in range(layer.shape[1])]
            found.append(jnp.asarray(np.stack([np.pad(x, ((0, SIZE - len(x)), (0, 0))) for x in heads])[None]))
        return tuple(found)

    def laws(cache, tokens):
        positions = known + jnp.arange(len(tokens), dtype=jnp.int32)[None]
        return np.asarray(jax.nn.softmax(forward_of("llama3")(jnp.array([tokens], jnp.int32), positions, cache)[0][0]))

    tokens = [text[-1], *drafted[:-1]]
    some = TailCache(picked(block.k), picked(block.v), jnp.array([seen + behind], jnp.int32))
    every = TailCache(block.k, block.v, jnp.array([known], jnp.int32))
    if not all_first:
        return laws(some, tokens)
    first, own = laws(every, tokens[:1]), laws_of_rest(every, some, tokens, known)
    return np.concatenate([first, own])


def laws_of_rest(every, some, tokens, known):
    """Laws behind a first token whose keys and values come from a forward over everything."""
    ids, positions = jnp.array([tokens[:1]], jnp.int32), jnp.array([[known]], jnp.int32)
    _, block = forward_of("llama3")(ids, positions, every)
    one = TailCache(block.k, block.v, jnp.array([1], jnp.int32))
    if len(tokens) == 1:
        return np.zeros((0, VOCAB))
    rest = jnp.array([tokens[1:]], jnp.int32)
    positions = known + 1 + jnp.arange(len(tokens) - 1, dtype=jnp.int32)[None]
    return np.asarray(jax.nn.softmax(forward_of("llama3")(rest, positions, some, one)[0][0]))


@pytest.mark.parametrize("options", [{}, dict(early_stop=True, first_candidates=3)])
def test_q_is_the_law_over_chosen_pages_and_the_tail(options):
    """In every step: the first token behind a choice is drawn from the target's own law, all others over the pages."""
    seen = []

    def check(index, draft, chosen, texts):
        columns = map(np.asarray, (draft.tokens, draft.probs, draft.lengths))
        for row, (text, tokens, probs, length) in enumerate(zip(texts, *columns, strict=True)):
            expected = law(text, tokens[:length].tolist(), chosen, row, all_first=index % 2 == 0)
            np.testing.assert_allclose(probs[:length], expected, atol=2e-3)
        seen.append(np.asarray(chosen.k[1]))

    state = run(Pages(PAGE, 4), check, **options)
    assert (state.counters.accepted > 0).any() and (state.counters.accepted < state.counters.tested).any()
    same = [np.array_equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert same == [True, False, True, False], "pages are chosen anew in every second step"


def test_pages_that_hold_everything_draft_what_the_target_says():
    """Then q is p: no draft is rejected, the sampled ones neither."""
    state = run(Pages(PAGE, read("llama3")[1].capacity // PAGE), lambda *_: None)
    assert state.counters.accepted.tolist() == state.counters.tested.tolist() == [GAMMA * STEPS] * len(ROWS)


def test_a_choice_reads_the_attention_of_the_newest_token():
    """Mass over the first cache alone, of each layer, is what a forward says when asked."""
    model, (_, context, tail) = model_of("llama3"), read("llama3")
    tokens, positions = jnp.array([[row[-1]] for row in ROWS], jnp.int32), tail.length[:, None] + len(DOCUMENT)
    apply = jax.jit(
        lambda page: model.decoder.apply({"params": model.params}, tokens, positions, context, tail, page=page),
        static_argnums=0,
    )
    hidden, block = apply(PAGE)
    plain, without = apply(0)
    np.testing.assert_allclose(hidden, plain, atol=1e-6)
    assert without.mass is None and len(block.mass) == 2
    group = model.decoder.config.num_heads // model.decoder.config.num_kv_heads
    for mass in block.mass:
        assert mass.shape == (len(ROWS), model.decoder.config.num_kv_heads, context.capacity // PAGE)
        np.testing.assert_allclose(np.asarray(mass).sum(axis=2), group, rtol=1e-4)
    assert not np.allclose(block.mass[0], block.mass[1])


def test_the_cache_grows_by_what_the_verification_read():
    """It holds all committed tokens but the last one, as the target computed them."""
    state = run(Pages(PAGE, 4), lambda *_: None)
    cache, target = state.drafter_cache, state.target_tail
    assert cache.length.tolist() == target.length.tolist() and int(cache.due) == 2 - 1, "the fifth step has chosen"
    for row, length in enumerate(cache.length.tolist()):
        np.testing.assert_array_equal(cache.k[1][row, :, :length], target.k[1][row, :, :length])
