"""What is learned of copies, and the draft length that follows from it."""

import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.copying import trust
from rapid_jax.copying.trust import LEAST, PRIOR, PRIOR_WEIGHT, Speed, Trust


def fresh(rows=1):
    right, seen = trust.initial()
    return Trust(jnp.array([right] * rows), jnp.array([seen] * rows))


def observed(copied, matched, emitted, count):
    before = fresh(len(copied))
    after = trust.observe(before, *(jnp.array(x, jnp.int32) for x in (copied, matched, emitted, count)))
    return np.asarray(after.right - before.right), np.asarray(after.seen - before.seen)


def test_tokens_are_counted_by_the_match_before_them():
    """Two right tokens and a wrong one behind a match of 2: the matches before them were 2, 3 and 4."""
    right, seen = observed([[5, 6, 7, 8]], [2], [[5, 6, 1, 8, 0]], [5])
    of = {LEAST[i]: (round(float(right[0, i])), round(float(seen[0, i]))) for i in np.flatnonzero(seen[0])}
    assert of == {2: (1, 1), 3: (1, 1), 4: (0, 1)}


@pytest.mark.parametrize(("matched", "count"), [(0, 5), (3, 0)])
def test_nothing_is_learned_without_a_match_or_a_token(matched, count):
    """A row that has ended emits nothing that could be compared."""
    _, seen = observed([[5, 6]], [matched], [[5, 6, 7, 8, 9]], [count])
    assert not seen.any()


def test_a_step_without_a_draft_teaches_too():
    """It emits one token, with which the first copied one is compared."""
    right, seen = observed([[5, 6, 7]], [1], [[5, 0, 0, 0]], [1])
    assert seen[0].tolist() == [1] + [0] * (len(LEAST) - 1) and round(float(right[0, 0])) == 1


def test_expected_tokens_are_sums_of_products():
    """Matches grow along a draft: shares of longer ones hold for its later tokens."""
    one = fresh()
    found = np.asarray(trust.expected(one, jnp.array([2]), 3))[0]
    a, b, c = PRIOR[1], PRIOR[2], PRIOR[3]
    np.testing.assert_allclose(found, np.cumsum([a, a * b, a * b * c]), rtol=1e-5)
    assert not np.asarray(trust.expected(one, jnp.array([0]), 3)).any()


LENGTHS = (4, 10, 32)


def so_far(rows, tokens=4.0):
    """The speed of rows that have emitted so many tokens at the cost of four steps without a draft."""
    return Speed(jnp.full(rows, tokens), jnp.full(rows, 4.0))


def best(matched, active, costs):
    """The chosen one of no draft and LENGTHS."""
    kept = trust.expected(fresh(len(matched)), jnp.array(matched), max(LENGTHS))[:, np.asarray(LENGTHS) - 1]
    return trust.best_way(kept, jnp.array(active), jnp.array(costs, jnp.float32), so_far(len(matched)), copies=0)


@pytest.mark.parametrize(
    ("matched", "costs", "chosen"),
    [
        ([0], (1, 1, 1, 1), 0),
        ([32], (1, 1.8, 2.2, 3.6), 3),
        ([1], (1, 1.8, 2.2, 3.6), 0),
        ([1], (1, 1.01, 1.02, 1.03), 3),
        ([4], (1, 1.8, 2.0, 9.0), 2),
        ([32], (1, np.inf, np.inf, np.inf), 0),
    ],
)
def test_the_best_length_is_chosen(matched, costs, chosen):
    """The more a row costs the longer the match must be; nothing is drafted before costs are known."""
    assert best(matched, [True] * len(matched), costs) == chosen


@pytest.mark.parametrize("tokens", [1.0, 4.0])
def test_an_answer_that_drafts_have_slowed_down_does_not_ask_for_more_of_them(tokens):
    """At a speed below that of no drafts time would look cheap, and every losing draft would bring the next one."""
    kept, costs = jnp.array([[0.5]]), jnp.array([1.0, 1.5])
    assert trust.best_way(kept, jnp.array([True]), costs, so_far(1, tokens), copies=0) == 0


@pytest.mark.parametrize(("tokens", "chosen"), [(4.0, 1), (6.0, 0)])
def test_a_long_step_that_is_a_little_faster_does_not_take_the_place_of_copies_to_come(tokens, chosen):
    """Six and a half tokens at the cost of five steps are a gain where the answer emits a token a step, not where it emits 1.5."""
    kept, costs = jnp.array([[5.5]]), jnp.array([1.0, 5.0])
    assert trust.best_way(kept, jnp.array([True]), costs, so_far(1, tokens), copies=0) == chosen


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [(4.0, 1), (3.5, 0), (5.0, 2), (7.0, 3)],
    ids=["a short one at first", "none behind one that failed", "a longer one behind one that was kept", "the longest"],
)
def test_copies_may_not_let_an_answer_fall_far_behind_plain_decoding(tokens, chosen):
    """What looks certain and is wrong would slow an answer down again and again; all of it is lost in the worst case."""
    kept, costs = jnp.array([[4.0, 10.0, 32.0]]), jnp.array([1.0, 1.8, 2.2, 3.6])
    assert trust.best_way(kept, jnp.array([True]), costs, so_far(1, tokens), copies=3) == chosen
    assert trust.best_way(kept, jnp.array([True]), costs, so_far(1, tokens), copies=0) == 3


def test_nothing_is_drafted_where_costs_are_unknown_and_all_rows_have_ended():
    assert best([32], [False], (1, np.inf, np.inf, np.inf)) == 0


def test_a_speed_counts_the_steps_of_rows_that_have_not_ended():
    speed = so_far(2).after(jnp.array([3, 0]), jnp.float32(1.5))
    np.testing.assert_allclose(speed.tokens, [7, 4])
    np.testing.assert_allclose(speed.costs, [5.5, 4])


def test_rows_share_a_step():
    """One row with a long match does not pay for seven without; rows that have ended do not count."""
    matched, costs = [24] + [0] * 7, (1, 1.8, 2.2, 3.6)
    assert best(matched, [True] * 8, costs) == 0
    assert best(matched, [True] + [False] * 7, costs) > 0


def test_earlier_answers_count_up_to_a_limit():
    """A long history must not outweigh what this answer shows."""
    right, seen = trust.initial((np.full(len(LEAST), 500.0), np.full(len(LEAST), 1000.0)))
    np.testing.assert_allclose(seen, PRIOR_WEIGHT + trust.MOST_WEIGHT)
    np.testing.assert_allclose(right, np.multiply(PRIOR, PRIOR_WEIGHT) + trust.MOST_WEIGHT / 2, rtol=1e-6)
