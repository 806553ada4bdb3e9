"""The drafter: q is its own law, its tail holds what was committed, vocabularies may be padded apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding.prefill import prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs
from rapid_jax.drafting import LanguageModelDrafter, NullDrafter
from rapid_jax.drafting.base import Outcome

VOCAB, GAMMA = 8, 3
PASSAGE = [2, 6, 5, 3, 5]
ROWS = [[1, 6, 0, 3], [7, 4]]


@pytest.fixture(scope="module")
def model(make_small_model):
    return make_small_model(2)


@pytest.fixture(scope="module")
def programs():
    return Programs()


def make_drafter(model, temperature=1.0):
    return LanguageModelDrafter(model.decoder, GAMMA, VOCAB, temperature, 0, 1.0)


def read(programs, model, rows):
    """(drafter model, tail, last tokens) after prefill."""
    settings = dict(chunk=32, dtype=jnp.float32)
    context = prefill_context(programs, model.decoder, model.params, [PASSAGE], **settings)
    tail = prefill_tail(
        programs, model.decoder, model.params, context, [row[:-2] for row in rows], capacity=32, **settings
    )
    return (model.params, context), tail, jnp.array([row[-2:] for row in rows], jnp.int32)


def run(programs, drafter, drafter_model, tail, last, seed=0):
    args = (drafter_model, tail, last, jax.random.split(jax.random.key(seed), len(last)))
    return programs.get(drafter.draft, (), args)(*args)


def law(model, row, tokens):
    """The drafter's own distributions [GAMMA,V] after `row` and each drafted token, by a plain forward."""
    ids = PASSAGE + row + list(tokens[:-1])
    padded = np.array([ids + [0] * (32 - len(ids))])
    return np.asarray(jax.nn.softmax(model.logits(padded)[0, len(PASSAGE + row) - 1 : len(ids)]))


def check_law(model, draft, rows):
    for row, tokens, probs in zip(rows, np.asarray(draft.tokens), np.asarray(draft.probs), strict=True):
        np.testing.assert_allclose(probs, law(model, row, tokens), atol=1e-5)


def outcome(rows, counts):
    """The outcome that added the last counts[b] tokens of each row."""
    tokens = [row[len(row) - count :] + [0] * (GAMMA + 1 - count) for row, count in zip(rows, counts, strict=True)]
    return Outcome(jnp.array(tokens, jnp.int32), jnp.array(counts, jnp.int32), jnp.zeros((len(rows), 0, VOCAB)))


def test_q_is_the_law_that_each_token_was_drawn_from(programs, model):
    """The ratio test divides by q: a distribution of another position would make it wrong, not slow."""
    draft, _ = run(programs, make_drafter(model), *read(programs, model, ROWS))
    assert draft.tokens.shape == (2, GAMMA) and draft.probs.shape == (2, GAMMA, VOCAB)
    check_law(model, draft, ROWS)


def test_a_greedy_draft_is_the_argmax_of_q(programs, model):
    """At temperature 0 q stays the softmax at temperature 1, as the greedy acceptance rule needs it."""
    draft, _ = run(programs, make_drafter(model, 0.0), *read(programs, model, ROWS))
    np.testing.assert_array_equal(draft.tokens, np.argmax(draft.probs, axis=-1))
    check_law(model, draft, ROWS)


def test_drafts_of_different_keys_differ(programs, model):
    """Each position and each step has noise of its own."""
    read_model = read(programs, model, ROWS)
    drafts = [np.asarray(run(programs, make_drafter(model), *read_model, seed=seed)[0].tokens) for seed in range(4)]
    assert len({draft.tobytes() for draft in drafts}) > 1


@pytest.mark.parametrize("counts", [(1, GAMMA + 1), (2, 3), (0, 1)])
def test_after_a_commit_the_next_draft_reads_all_committed_tokens(programs, model, counts):
    """Rejection keeps a part of the draft; full acceptance adds a token that the drafter never read."""
    drafter = make_drafter(model)
    drafter_model, before, last = read(programs, model, ROWS)
    draft, after = run(programs, drafter, drafter_model, before, last)
    rows = []
    for row, tokens, count in zip(ROWS, np.asarray(draft.tokens).tolist(), counts, strict=True):
        bonus = [(tokens[count - 1] + 1) % VOCAB if count <= GAMMA else 5]  # what replaced a rejected token
        rows.append(row + (tokens[: count - 1] + bonus if count else []))
    tail = drafter.commit(before, after, outcome(rows, counts))
    last = jnp.array([row[-2:] for row in rows], jnp.int32)
    following, _ = run(programs, drafter, drafter_model, tail, last, seed=1)
    check_law(model, following, rows)


@pytest.mark.parametrize("size", [7, 11])
def test_a_vocabulary_padded_to_another_size_is_fitted(programs, make_small_model, size):
    """Qwen2.5 of 3B and of 7B share a tokenizer and pad their embeddings apart; q must be over the target's ids."""
    model = make_small_model(3, vocab_size=size)
    rows = [[1, 5, 0, 3], [4, 7]]  # 7 is padding that a drafter of 7 ids does not know
    draft, _ = run(programs, make_drafter(model), *read(programs, model, [rows[0], [4, 4]]))
    probs = np.asarray(draft.probs)
    assert probs.shape == (2, GAMMA, VOCAB) and (np.asarray(draft.tokens) < min(size, VOCAB)).all()
    assert not probs[..., size:].any()
    ids = np.array([PASSAGE + rows[0]])
    logits = np.asarray(model.logits(np.pad(ids, ((0, 0), (0, 32 - ids.shape[1])))))[0, ids.shape[1] - 1]
    np.testing.assert_allclose(probs[0, 0, : min(size, VOCAB)], np.asarray(jax.nn.softmax(logits[:VOCAB])), atol=1e-5)
    unknown, _ = run(programs, make_drafter(model), *read(programs, model, rows))
    assert np.isfinite(unknown.probs).all()


def test_a_drafter_that_is_the_target_and_reads_what_it_reads_is_always_accepted(lab):
    """q = p: a rejection would mean that drafter and target disagree about positions or caches."""
    spec = lab.spec(temperature=0.0, drafter=lab.target)
    report = lab.run(spec, lab.questions, drafter=lab.target, passage=lab.document)
    assert (report.counters.accepted == report.counters.proposed).all()
    assert (report.counters.steps == 4).all() and (report.num_tokens == 16).all()


def test_no_draft_at_all():
    """Plain decoding is a draft of length 0 over the same vocabulary, without a cache to keep."""
    drafter = NullDrafter(VOCAB)
    draft, cache = drafter.draft((), (), jnp.zeros((3, 2), jnp.int32), jax.random.split(jax.random.key(0), 3))
    assert draft.tokens.shape == (3, 0) and draft.probs.shape == (3, 0, VOCAB)
    nothing = Outcome(jnp.zeros((3, 1), jnp.int32), jnp.ones(3, jnp.int32), jnp.zeros((3, 0, VOCAB)))
    assert drafter.gamma == 0 and drafter.commit((), cache, nothing) == ()
