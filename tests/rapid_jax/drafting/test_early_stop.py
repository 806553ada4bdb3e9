"""Early draft stop against a plain Python model of the rule, row by row and over many steps."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.sampling import position_keys
from rapid_jax.decoding.step import step
from rapid_jax.drafting import EarlyStopDrafter, LanguageModelDrafter
from rapid_jax.drafting.early_stop import StopState, acceptance_bound
from tests.rapid_jax.drafting.chains import ROWS, VOCAB, check_law, outcome, read, run

GAMMA = 5
THRESHOLD = 0.41  # about the median of the bound under the model below


@pytest.fixture(scope="module")
def model(make_small_model):
    return make_small_model(2)


@pytest.fixture(scope="module")
def programs():
    return Programs()


def make_drafters(model, threshold=THRESHOLD, first_candidates=1):
    """(the drafter with early stop, the one without)."""
    whole = LanguageModelDrafter(model.decoder, GAMMA, VOCAB, first_candidates)
    return EarlyStopDrafter(whole, threshold), whole


def bound(q):
    """1 - sqrt(0.2 H(q)) in float64."""
    return 1 - math.sqrt(0.2 * -sum(x * math.log(x) for x in np.float64(q) if x > 0))


def expected_length(probs, threshold):
    """Tokens of a draft whose places have the distributions probs [gamma,V]: the first one always, then by the rule."""
    length = 1
    while length < len(probs) and bound(probs[length - 1]) >= threshold:
        length += 1
    return length


class Row:
    """The adaptation of one row, from the paper's equations, in Python floats."""

    def __init__(self, threshold):
        self.rate, self.threshold = 1.0, threshold

    def learn(self, accepted, drafted):
        self.rate = 0.5 * self.rate + 0.5 * accepted / drafted
        if self.rate < 0.9:
            moved = self.threshold + 0.01
        elif accepted < drafted:
            moved = self.threshold - 0.01
        else:
            moved = self.threshold
        self.threshold = 0.9 * self.threshold + 0.1 * moved


def test_the_bound_is_that_of_the_entropy_in_nats():
    """Bits in the place of nats would stop drafts much too early."""
    probs = np.float32([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1]])
    expected = [1, 1 - math.sqrt(0.2 * math.log(4)), 1 - math.sqrt(0.2 * math.log(2)), bound(probs[3])]
    np.testing.assert_allclose(acceptance_bound(probs), expected, atol=1e-6)
    assert float(acceptance_bound(np.full(2000, 1 / 2000, np.float32))) < 0  # above 5 nats any lambda in [0, 1] stops


def test_the_threshold_follows_the_acceptance():
    """Every branch: too few accepted, enough but not all, all; and the memory of both averages."""
    drafts = [(5, 5), (5, 5), (9, 10), (0, 3), (1, 5), (4, 4), (4, 4), (4, 4), (4, 4), (19, 20), (5, 5)]
    row, state = Row(0.3), StopState(jnp.float32([1.0]), jnp.float32([0.3]))
    steps = []
    for accepted, drafted in drafts:
        before = row.threshold
        row.learn(accepted, drafted)
        steps.append(round(row.threshold - before, 6))
        state = state.after(jnp.int32([accepted]), jnp.int32([drafted]))
        assert float(state.rate[0]) == pytest.approx(row.rate, abs=1e-6)
        assert float(state.threshold[0]) == pytest.approx(row.threshold, abs=1e-6)
    assert set(steps) == {0.0, 0.001, -0.001}
    assert state.rate.dtype == state.threshold.dtype == jnp.float32


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("first_candidates", [1, 3])
def test_a_draft_ends_by_the_rule_and_is_the_beginning_of_the_whole_draft(
    programs, model, temperature, first_candidates
):
    """Same keys, same tokens, same q, only fewer; the forwards end with the longest row."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early, whole = make_drafters(model, first_candidates=first_candidates)
    lengths = []
    for seed in range(6):
        draft, _ = run(programs, early, drafter_model, early.initial_cache(tail), last, seed, temperature)
        full, _ = run(programs, whole, drafter_model, tail, last, seed, temperature)
        check_law(model, draft, ROWS)
        expected = [expected_length(probs, THRESHOLD) for probs in np.asarray(full.probs)]
        assert draft.lengths.tolist() == expected
        assert draft.forwards.tolist() == [max(expected)] * len(ROWS)
        inside = np.arange(GAMMA)[None] < np.array(expected)[:, None]
        np.testing.assert_array_equal(draft.tokens, np.where(inside, full.tokens, 0))
        np.testing.assert_allclose(draft.probs, np.where(inside[..., None], full.probs, 0), atol=1e-6)
        for one, other in zip(*map(jax.tree.leaves, (draft.alternatives, full.alternatives)), strict=True):
            np.testing.assert_array_equal(one, other)
        lengths += expected
    assert len(set(lengths)) > (2 if temperature else 1)


def confident_length(tokens, probs, confidence, threshold=-math.inf):
    """Tokens of a draft that goes on behind a token only if the drafter gave it enough, and by the bound as well."""
    length = 1
    while length < len(probs):
        place = length - 1
        if probs[place][tokens[place]] < confidence or bound(probs[place]) < threshold:
            break
        length += 1
    return length


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("threshold", [-math.inf, THRESHOLD])
def test_a_draft_ends_behind_a_token_that_the_drafter_doubts(programs, model, temperature, threshold):
    """The published evaluation's rule, alone and beside the bound: the doubted token is the last one, and is kept."""
    drafter_model, tail, last = read(programs, model, ROWS)
    whole = LanguageModelDrafter(model.decoder, GAMMA, VOCAB, 1)
    confidence, lengths = (0.2 if temperature else 0.26), []
    early = EarlyStopDrafter(whole, threshold, confidence)
    for seed in range(6):
        draft, _ = run(programs, early, drafter_model, early.initial_cache(tail), last, seed, temperature)
        full, _ = run(programs, whole, drafter_model, tail, last, seed, temperature)
        check_law(model, draft, ROWS)
        rows = zip(full.tokens.tolist(), np.asarray(full.probs), strict=True)
        expected = [confident_length(tokens, probs, confidence, threshold) for tokens, probs in rows]
        assert draft.lengths.tolist() == expected and draft.forwards.tolist() == [max(expected)] * len(ROWS)
        inside = np.arange(GAMMA)[None] < np.array(expected)[:, None]
        np.testing.assert_array_equal(draft.tokens, np.where(inside, full.tokens, 0))
        lengths += expected
    assert len(set(lengths)) > 1


def test_the_rule_by_confidence_does_not_move(programs, model):
    """0.1 is 0.1 after any number of rejections; only a row that has ended stops at once."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early = EarlyStopDrafter(LanguageModelDrafter(model.decoder, GAMMA, VOCAB, 1), -math.inf, 1e-6)
    cache = early.initial_cache(tail)
    for tokens in ([[1], [2]], [[3], []]):
        draft, drafted = run(programs, early, drafter_model, cache, last)
        assert draft.lengths.tolist() == [GAMMA, GAMMA]
        cache = early.commit(cache, drafted, outcome(GAMMA, tokens))
    draft, _ = run(programs, early, drafter_model, cache, last)
    assert draft.lengths.tolist() == [GAMMA, 1]


def test_the_ends_of_the_threshold(programs, model):
    """1 stops all but certain drafts after their first token; 0 never stops under five nats."""
    drafter_model, tail, last = read(programs, model, ROWS)
    for threshold, length in ((1.0, 1), (0.0, GAMMA)):
        early, _ = make_drafters(model, threshold)
        draft, _ = run(programs, early, drafter_model, early.initial_cache(tail), last)
        assert draft.lengths.tolist() == draft.forwards.tolist() == [length] * 2


@dataclasses.dataclass(frozen=True)
class Counting(LanguageModelDrafter):
    """Counts the forwards that the device really runs."""

    calls = []

    def forward(self, *args):
        jax.debug.callback(lambda: self.calls.append(1))
        return super().forward(*args)


@pytest.mark.parametrize("threshold", [1.0, THRESHOLD, 0.0])
def test_forwards_are_really_saved(programs, model, threshold):
    """Lengths alone save nothing: the loop has to end."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early = EarlyStopDrafter(Counting(model.decoder, GAMMA, VOCAB), threshold)
    Counting.calls.clear()
    draft, _ = run(programs, early, drafter_model, early.initial_cache(tail), last)
    jax.effects_barrier()
    assert len(Counting.calls) == int(draft.forwards[0]) == int(draft.lengths.max())


def test_a_row_that_has_stopped_does_not_notice_the_others(programs, model):
    """Tokens, q and length are a row's own, whether its neighbours stop at once or go on."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early, _ = make_drafters(model)
    cache = early.initial_cache(tail)
    results = []
    for other in (1.0, 0.0):
        stop = StopState(cache.stop.rate, jnp.float32([THRESHOLD, other]))
        results.append(run(programs, early, drafter_model, dataclasses.replace(cache, stop=stop), last, seed=2)[0])
    alone, together = results
    assert int(alone.forwards[0]) < GAMMA == int(together.forwards[0])
    for name in ("tokens", "probs", "lengths"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[0])


@pytest.mark.parametrize("kept", ["all", "one", "none"])
@pytest.mark.parametrize("thresholds", [(1.0, 0.0), (THRESHOLD, THRESHOLD), (0.0, 1.0)])
def test_after_a_commit_the_next_draft_reads_all_committed_tokens(programs, model, thresholds, kept):
    """A whole short draft and its bonus: the tail must end two tokens before them, though another row went on."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early, whole = make_drafters(model)
    cache = early.initial_cache(tail)
    cache = dataclasses.replace(cache, stop=StopState(cache.stop.rate, jnp.float32(thresholds)))
    draft, drafted = run(programs, early, drafter_model, cache, last, seed=3)
    emitted = []
    for tokens, length in zip(draft.tokens.tolist(), draft.lengths.tolist(), strict=True):
        accepted = {"all": length, "one": 1, "none": 0}[kept]
        emitted.append(tokens[:accepted] + [(tokens[accepted - 1] + 3) % VOCAB])
    after = early.commit(cache, drafted, outcome(GAMMA, emitted))
    rows = [row + new for row, new in zip(ROWS, emitted, strict=True)]
    assert after.tail.length.tolist() == [len(row) - 2 for row in rows]
    following, _ = run(programs, whole, drafter_model, after.tail, jnp.array([row[-2:] for row in rows], jnp.int32))
    check_law(model, following, rows)


def test_an_accepted_alternative_is_no_accepted_token_of_the_chain(programs, model):
    """The chain failed at its first token, whatever stood beside it: AR halves, as after any other failure."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early, _ = make_drafters(model, 1.0, first_candidates=3)
    cache = early.initial_cache(tail)
    draft, drafted = run(programs, early, drafter_model, cache, last)
    emitted = [[int(draft.alternatives.tokens[0, 0]), 5], [int(draft.tokens[1, 0]), 5]]
    after = early.commit(cache, drafted, outcome(GAMMA, emitted))
    assert after.stop.rate.tolist() == [0.5, 1.0]
    assert after.tail.length.tolist() == [len(row) for row in ROWS]


def test_a_row_that_has_ended_does_not_keep_the_others_drafting(programs, model):
    """It commits nothing, and from then on stops at its first token."""
    drafter_model, tail, last = read(programs, model, ROWS)
    early, _ = make_drafters(model, 0.0)
    cache = early.initial_cache(tail)
    draft, drafted = run(programs, early, drafter_model, cache, last)
    assert draft.lengths.tolist() == [GAMMA, GAMMA]
    after = early.commit(cache, drafted, outcome(GAMMA, [[], []]))
    for _ in range(2):
        draft, drafted = run(programs, early, drafter_model, after, last)
        assert draft.lengths.tolist() == draft.forwards.tolist() == [1, 1]
        after = early.commit(after, drafted, outcome(GAMMA, [[], []]))
        assert np.isposinf(after.stop.threshold).all() and not np.isnan(after.stop.rate).any()


def test_the_cache_lies_where_the_tail_lies(model):
    """On a mesh a row's threshold belongs to the devices of the row."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    programs, rows = Programs(), [ROWS[0]] * 8
    _, tail, _ = read(programs, model, rows)
    tail = dataclasses.replace(tail, length=jax.device_put(tail.length, by_row))
    stop = make_drafters(model)[0].initial_cache(tail).stop
    assert stop.rate.sharding == stop.threshold.sharding == by_row


@pytest.mark.slow
@pytest.mark.parametrize("first_candidates", [1, 3])
def test_many_steps_follow_the_plain_model(lab, first_candidates):
    """Thresholds, rates and lengths of the jitted step, row by row, against Python floats fed with the same drafts."""
    threshold, budget = 0.40, 16
    spec = lab.spec(gamma=GAMMA, stop_threshold=threshold, first_candidates=first_candidates)
    context, drafter_model, state = lab.start(spec, lab.questions, budget=budget)
    models = [Row(threshold) for _ in lab.questions]
    whole = jax.jit(spec.drafter.model.draft)
    once = jax.jit(step, static_argnums=0)
    lengths, rates = [], []
    while not state.done.all():
        keys, _ = position_keys(state.keys, state.num_tokens)
        full, _ = whole(drafter_model, state.drafter_cache.tail, state.last_tokens, keys, spec.controls().warping)
        before = state
        state = once(spec, lab.target.params, context, drafter_model, spec.controls(), state)
        proposed, accepted, steps = (
            np.asarray(getattr(state.counters, name) - getattr(before.counters, name))
            for name in ("proposed", "accepted", "steps")
        )
        new = np.asarray(state.num_tokens - before.num_tokens)
        for index, row in enumerate(models):
            if not steps[index]:
                continue
            expected = expected_length(np.asarray(full.probs)[index], row.threshold)
            assert proposed[index] == expected + first_candidates - 1
            if state.done[index]:
                continue
            chain = np.asarray(full.tokens)[index]
            emitted = np.asarray(state.output)[index, before.num_tokens[index] :][: new[index]]
            of_chain = new[index] > 1 and emitted[0] == chain[0]
            assert accepted[index] == new[index] - 1
            row.learn(accepted[index] if of_chain else 0, expected)
            stop = state.drafter_cache.stop
            assert float(stop.rate[index]) == pytest.approx(row.rate, abs=1e-6)
            assert float(stop.threshold[index]) == pytest.approx(row.threshold, abs=1e-6)
            lengths.append(expected)
            rates.append(row.rate)
    assert len(set(lengths)) >= 3 and min(rates) < 0.5
