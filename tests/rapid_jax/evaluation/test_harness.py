"""The figures of an evaluation: which questions are drawn, and means with their errors."""

import math

import pytest

from rapid_jax.evaluation.archive import TASKS, make_archive
from rapid_jax.evaluation.harness import mean_and_error, sample_questions


def test_mean_and_standard_error():
    """An error without Bessel's correction would look smaller than it is."""
    mean, error = mean_and_error([0.0, 1.0, 1.0, 0.0])
    assert mean == 0.5 and error == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean_and_error([0.7])[0] == 0.7 and math.isnan(mean_and_error([0.7])[1])


def test_questions_are_drawn_without_repeats_and_again_the_same():
    """A question that counts twice, or another draw for each method, would spoil every comparison."""
    archive = make_archive(2000, 3, lambda part: len(part.split()))
    drawn = sample_questions(archive, 5, seed=1)
    assert set(drawn) == set(TASKS) and drawn == sample_questions(archive, 5, seed=1)
    for task, questions in drawn.items():
        ids = [question.id for question in questions]
        assert len(set(ids)) == len(ids) <= 5 and all(question.task == task for question in questions)
    assert len(drawn["fact"]) == 5
