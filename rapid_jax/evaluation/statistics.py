"""Means with their errors, and intervals for differences between methods that answered the same questions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_and_error(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single score is nan."""
    values = np.asarray(scores, float)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def macro_mean_and_error(by_task: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Mean of the tasks' means, and its standard error: tasks count alike, however many questions they have."""
    figures = [mean_and_error(scores) for scores in by_task.values()]
    mean = sum(mean for mean, _ in figures) / len(figures)
    return mean, math.sqrt(sum(error**2 for _, error in figures)) / len(figures)


def paired_bootstrap(
    by_task: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, seed: int = 0, resamples: int = _RESAMPLES
) -> Interval:
    """Macro-averaged difference of two methods, with its percentile interval (Efron and Tibshirani 1993, chapter 13).

    Questions are drawn with replacement within each task, both methods' scores of a question together.

    Args:
      by_task: the scores of both methods on the same questions, in the same order.
    """
    rng = np.random.default_rng(seed)
    means, drawn = [], np.zeros(resamples)
    for ours, theirs in by_task.values():
        difference = np.asarray(ours, float) - np.asarray(theirs, float)
        means.append(difference.mean())
        picks = rng.integers(0, len(difference), (resamples, len(difference)))
        drawn += difference[picks].mean(axis=1) / len(by_task)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.mean(means)), float(low), float(high))


def geometric_mean(ratios: Sequence[float], *, seed: int = 0, resamples: int = _RESAMPLES) -> Interval:
    """Geometric mean of positive ratios with its percentile bootstrap interval.

    Args:
      ratios: one a prompt, such as speed-ups.
    """
    logs = np.log(np.asarray(ratios, float))
    picks = np.random.default_rng(seed).integers(0, len(logs), (resamples, len(logs)))
    low, high = np.quantile(logs[picks].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(*(float(np.exp(value)) for value in (logs.mean(), low, high)))


def ratio_interval(
    by_task: Mapping[str, np.ndarray],
    figure: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> Interval:
    """A figure of sums over questions, such as tokens over steps, with its percentile interval.

    Questions are drawn with replacement within each task, all that is summed of a question together.

    Args:
      by_task: what is summed, float [questions, columns]; at least one question.
      figure: from sums [..., columns] to figures [...]; nan where there is none.

    Returns:
      The figure of all questions; nan bounds where no task has two questions or a resample has no figure.
    """
    value = float(figure(np.sum([rows.sum(axis=0) for rows in by_task.values()], axis=0)))
    if all(len(rows) < 2 for rows in by_task.values()):
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = sum(rows[rng.integers(0, len(rows), (resamples, len(rows)))].sum(axis=1) for rows in by_task.values())
    low, high = np.quantile(figure(np.asarray(drawn)), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
