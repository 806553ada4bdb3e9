"""What is learned of copies, and the draft length that follows from it."""

import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.copying import trust
from rapid_jax.copying.trust import LEAST, PRIOR, PRIOR_WEIGHT, Trust


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


def fastest(matched, active, costs):
    """The chosen one of no draft and LENGTHS."""
    kept = trust.expected(fresh(len(matched)), jnp.array(matched), max(LENGTHS))[:, np.asarray(LENGTHS) - 1]
    return trust.fastest(kept, jnp.array(active), jnp.array(costs, jnp.float32))


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
def test_the_fastest_length_is_chosen(matched, costs, chosen):
    """The more a row costs the longer the match must be; nothing is drafted before costs are known."""
    assert fastest(matched, [True] * len(matched), costs) == chosen


def test_rows_share_a_step():
    """One row with a long match does not pay for seven without; rows that have ended do not count."""
    matched, costs = [24] + [0] * 7, (1, 1.8, 2.2, 3.6)
    assert fastest(matched, [True] * 8, costs) == 0
    assert fastest(matched, [True] + [False] * 7, costs) > 0


def test_earlier_answers_count_up_to_a_limit():
    """A long history must not outweigh what this answer shows."""
    right, seen = trust.initial((np.full(len(LEAST), 500.0), np.full(len(LEAST), 1000.0)))
    np.testing.assert_allclose(seen, PRIOR_WEIGHT + trust.MOST_WEIGHT)
    np.testing.assert_allclose(right, np.multiply(PRIOR, PRIOR_WEIGHT) + trust.MOST_WEIGHT / 2, rtol=1e-6)
