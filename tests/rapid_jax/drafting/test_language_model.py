"""The drafter: q is its own law, its tail holds what was committed, vocabularies may be padded apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting import LanguageModelDrafter, NullDrafter
from tests.marks import slow
from tests.rapid_jax.drafting.chains import PASSAGE, ROWS, VOCAB, check_law, outcome, read, run

GAMMA = 3


@pytest.fixture(scope="module")
def model(make_small_model):
    return make_small_model(2)


@pytest.fixture(scope="module")
def programs():
    return Programs()


def make_drafter(model, first_candidates=1):
    return LanguageModelDrafter(model.decoder, GAMMA, VOCAB, first_candidates)


def test_q_is_the_law_that_each_token_was_drawn_from(programs, model):
    """The ratio test divides by q: a distribution of another position would make it wrong, not slow."""
    draft, _ = run(programs, make_drafter(model), *read(programs, model, ROWS))
    assert draft.tokens.shape == (2, GAMMA) and draft.probs.shape == (2, GAMMA, VOCAB)
    check_law(model, draft, ROWS)


def test_a_greedy_draft_is_the_argmax_of_q(programs, model):
    """At temperature 0 q stays the softmax at temperature 1, as the greedy acceptance rule needs it."""
    draft, _ = run(programs, make_drafter(model), *read(programs, model, ROWS), temperature=0.0)
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
    emitted = []
    for tokens, count in zip(np.asarray(draft.tokens).tolist(), counts, strict=True):
        bonus = [(tokens[count - 1] + 1) % VOCAB if count <= GAMMA else 5]  # what replaced a rejected token
        emitted.append(tokens[: count - 1] + bonus if count else [])
    tail = drafter.commit(before, after, outcome(GAMMA, emitted))
    rows = [row + new for row, new in zip(ROWS, emitted, strict=True)]
    last = jnp.array([row[-2:] for row in rows], jnp.int32)
    following, _ = run(programs, drafter, drafter_model, tail, last, seed=1)
    check_law(model, following, rows)


def test_alternatives_are_other_first_tokens_beside_the_same_chain(programs, model):
    """The chain is what a single candidate drafts with the same key; the alternatives repeat nothing."""
    read_model = read(programs, model, ROWS)
    single, _ = run(programs, make_drafter(model), *read_model)
    several, _ = run(programs, make_drafter(model, first_candidates=4), *read_model)
    for name in ("tokens", "probs", "lengths", "forwards"):
        np.testing.assert_array_equal(getattr(single, name), getattr(several, name))
    assert single.alternatives is None and several.alternatives.tokens.shape == (2, 3)
    assert (several.alternatives.count == 3).all()
    first = np.concatenate([several.tokens[:, :1], several.alternatives.tokens], axis=1)
    assert all(len(set(row)) == 4 for row in first.tolist())


def test_greedy_alternatives_are_the_next_best_tokens(programs, model):
    """At temperature 0 the candidates of the first position are q's best, in order."""
    draft, _ = run(programs, make_drafter(model, 4), *read(programs, model, ROWS), temperature=0.0)
    best = np.argsort(-np.asarray(draft.probs)[:, 0], axis=-1)[:, :4]
    np.testing.assert_array_equal(draft.tokens[:, 0], best[:, 0])
    np.testing.assert_array_equal(draft.alternatives.tokens, best[:, 1:])


def test_a_comb_lets_an_alternative_see_the_last_token_and_itself(model):
    """It stands where the chain's first token stands, and must not look at it."""
    layout = make_drafter(model, first_candidates=3).layout
    assert layout.offsets.tolist() == [0, 1, 2, 3, 1, 1]
    expected = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 4], [0, 5]]
    assert [np.flatnonzero(row).tolist() for row in layout.mask] == expected
    assert make_drafter(model).layout.mask is None


def test_after_an_accepted_alternative_nothing_is_missing_in_the_tail(programs, model):
    """The drafter has read neither the alternative nor its bonus: they are the last two, which the next draft takes."""
    drafter = make_drafter(model, first_candidates=3)
    drafter_model, before, last = read(programs, model, ROWS)
    draft, after = run(programs, drafter, drafter_model, before, last)
    emitted = [[int(draft.alternatives.tokens[0, 1]), 5], [int(draft.tokens[1, 0]), 2]]
    tail = drafter.commit(before, after, outcome(GAMMA, emitted))
    rows = [row + new for row, new in zip(ROWS, emitted, strict=True)]
    assert tail.length.tolist() == [len(row) - 2 for row in rows]
    last = jnp.array([row[-2:] for row in rows], jnp.int32)
    following, _ = run(programs, drafter, drafter_model, tail, last, seed=1)
    check_law(model, following, rows)


@pytest.mark.parametrize("count", [0, VOCAB + 1])
def test_more_first_candidates_than_tokens_are_refused(model, count):
    """In one line, before anything is traced."""
    with pytest.raises(ValueError, match="first_candidates must be between 1 and the vocabulary's 8 tokens") as error:
        make_drafter(model, first_candidates=count)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [slow(7), 11])
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
    keys = jax.random.split(jax.random.key(0), 3)
    draft, cache = drafter.draft((), (), jnp.zeros((3, 2), jnp.int32), keys, Warping.of(1.0))
    assert draft.tokens.shape == (3, 0) and draft.probs.shape == (3, 0, VOCAB)
    assert drafter.gamma == 0 and drafter.commit((), cache, outcome(0, [[1], [2], [3]])) == ()
