"""Errors and intervals: what a reader takes a difference for."""

import math

import numpy as np
import pytest

from rapid_jax.evaluation.statistics import (
    Interval,
    geometric_mean,
    macro_mean_and_error,
    mean_and_error,
    paired_bootstrap,
)


def test_mean_and_standard_error():
    """An error without Bessel's correction would look smaller than it is."""
    mean, error = mean_and_error([0.0, 1.0, 1.0, 0.0])
    assert mean == 0.5 and error == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean_and_error([0.7])[0] == 0.7 and math.isnan(mean_and_error([0.7])[1])


def test_tasks_count_alike_however_many_questions_they_have():
    """A task with many easy questions must not drown the others."""
    mean, error = macro_mean_and_error({"easy": [1.0] * 98 + [0.0] * 2, "hard": [0.0, 1.0]})
    assert mean == pytest.approx((0.98 + 0.5) / 2)
    errors = mean_and_error([1.0] * 98 + [0.0] * 2)[1], mean_and_error([0.0, 1.0])[1]
    assert error == pytest.approx(math.hypot(*errors) / 2)


def test_paired_interval_is_that_of_the_mean_difference():
    """For many questions the bootstrap must agree with the normal interval of paired differences."""
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 2, 400).astype(float)
    ours = np.where(rng.random(400) < 0.2, 1.0, theirs)
    found = paired_bootstrap({"task": (ours, theirs)})
    mean, error = mean_and_error(ours - theirs)
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.005)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.005)
    assert found.clear_of_zero


def test_equal_answers_have_no_difference():
    """SD that equals LC must show a difference of nothing, with no width."""
    scores = [0.0, 1.0, 0.5]
    assert paired_bootstrap({"a": (scores, scores), "b": (scores, scores)}) == Interval(0.0, 0.0, 0.0)
    assert not Interval(0.0, 0.0, 0.0).clear_of_zero
    assert Interval(-0.2, -0.3, -0.1).clear_of_zero and not Interval(0.1, -0.1, 0.3).clear_of_zero


def test_pairing_matters():
    """Unpaired resampling would hide a small difference between methods that agree on most questions."""
    theirs = [0.0, 1.0] * 100
    ours = [*theirs[:-10], *[1.0] * 10]
    assert paired_bootstrap({"task": (ours, theirs)}).clear_of_zero


def test_the_interval_of_a_geometric_mean_is_that_of_the_mean_logarithm():
    """Twice as fast and half as fast are one in the mean, not one and a quarter."""
    assert geometric_mean([2.0, 0.5]).value == pytest.approx(1.0)
    logs = np.random.default_rng(0).normal(0.3, 0.5, 400)
    found = geometric_mean(list(np.exp(logs)))
    mean, error = mean_and_error(logs)
    assert found.value == pytest.approx(math.exp(mean))
    assert found.low == pytest.approx(math.exp(mean - 1.96 * error), rel=0.01)
    assert found.high == pytest.approx(math.exp(mean + 1.96 * error), rel=0.01)
