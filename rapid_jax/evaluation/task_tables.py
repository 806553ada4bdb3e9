"""Speed by task, with intervals: tokens per step, decoding alone, and Spec-Bench's own figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rapid_jax.evaluation.series import Result, Series, baseline, cost, ratio
from rapid_jax.evaluation.statistics import Interval, ratio_interval
from rapid_jax.evaluation.tables import Table

OVERALL = "overall"
_INTERVALS = "in brackets the 95% interval of a bootstrap over questions (10,000 resamples, within tasks)"
_COUNTS = "A heading has the number of questions; a cell of fewer has its own."

Sums = Mapping[str, np.ndarray]  # by task, what is summed up of each question: float [questions, columns]


def tokens_per_step(series: Sequence[Series], headings: Mapping[str, str] | None = None) -> Table | None:
    """New tokens over forwards of the target, by task and over all questions; no clock has a part in it.

    Args:
      series: of one context length.
      headings: what tasks are called, in the order of the columns; the others follow with their own names.

    Returns:
      The table; None where nothing was drafted, and every step emits one token.
    """
    if not any(cost(one.records).proposed for one in series):
        return None
    columns, counts = _columns(series, headings or {})
    rows = []
    for one in series:
        cells = []
        for column in columns:
            sums = {task: _sums(part, _emitted) for task, part in _column(one, column).items()}
            cells.append(_with_count(_interval(sums, _first_over_second, ""), sums, counts[column]))
        rows.append((one.key.label, *cells))
    note = f"New tokens that a step (a forward of the target) emits: tokens over steps, {_INTERVALS}. {_COUNTS}"
    return Table("Tokens per step by task", _titles(columns, counts, headings or {}), tuple(rows), note)


def speed_by_task(series: Sequence[Series], headings: Mapping[str, str] | None = None) -> Table | None:
    """Decoding speed-up over the plain target by task: short answers gain less. None without the plain target."""
    if len(series) < 2 or not any(one.key.method == "lc" for one in series):
        return None
    columns, counts = _columns(series, headings or {})
    rows = [
        (one.key.label, *(_against_lc(series, one, column, counts[column], _decoding) for column in columns))
        for one in series
    ]
    note = (
        "Tokens a second of decoding alone, over those of lc with the same settings on the questions that both "
        f"answered; {_INTERVALS}. {_COUNTS}"
    )
    return Table("Speed-up by task, decode only", _titles(columns, counts, headings or {}), tuple(rows), note)


def question_speed(series: Sequence[Series], headings: Mapping[str, str] | None = None) -> Table:
    """Spec-Bench's own figures (arXiv 2401.07851): a question's new tokens over its wall time, prefill included."""
    columns, counts = _columns(series, headings or {})
    rows = []
    for one in series:
        cells = []
        for column in columns:
            speeds = [_tokens_per_second(record) for part in _column(one, column).values() for record in part]
            against = _against_lc(series, one, column, counts[column], _question)
            mean = f"{sum(speeds) / len(speeds):.1f}" if speeds else "-"
            cells.append(mean if against == "-" else f"{mean}, {against}")
        rows.append((one.key.label, *cells))
    note = (
        "Tokens a second, the mean over questions of new tokens over wall time (prefill and all turns included, "
        "compilation excluded), and its ratio to lc's mean with the same settings on the questions that both answered; "
        f"{_INTERVALS}. {_COUNTS}"
    )
    return Table("Spec-Bench: speed and speed-up", _titles(columns, counts, headings or {}), tuple(rows), note)


def _columns(series: Sequence[Series], headings: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The tasks that were asked and, of several, all of them; and how many questions each has in any series."""
    asked: dict[str, set[str]] = {}
    for one in series:
        for task, records in one.tasks().items():
            asked.setdefault(task, set()).update(record["item"] for record in records)
    tasks = [*(task for task in headings if task in asked), *(task for task in asked if task not in headings)]
    counts = {task: len(asked[task]) for task in tasks}
    if len(tasks) < 2:
        return tasks, counts
    return [*tasks, OVERALL], {**counts, OVERALL: sum(counts.values())}


def _titles(columns: Sequence[str], counts: Mapping[str, int], headings: Mapping[str, str]) -> tuple[str, ...]:
    return ("method", *(f"{headings.get(column, column)} ({counts[column]})" for column in columns))


def _column(one: Series, column: str) -> dict[str, list[Result]]:
    """The records of a column, by task."""
    tasks = one.tasks()
    if column == OVERALL and column not in tasks:
        return tasks
    return {column: tasks[column]} if column in tasks else {}


def _against_lc(
    series: Sequence[Series], one: Series, column: str, count: int, figures: Callable[[Result], Sequence[float]]
) -> str:
    """A series' sums over those of the plain target on the questions that both have answered."""
    plain = baseline(series, one, "lc")
    if plain is None:
        return "-"
    sums: dict[str, np.ndarray] = {}
    for task, records in _column(one, column).items():
        shared = [record for record in records if record["item"] in plain.by_item]
        if shared:
            others = [plain.by_item[record["item"]] for record in shared]
            sums[task] = np.concatenate([_sums(shared, figures), _sums(others, figures)], axis=1)
    figure = _first_over_second if figures is _question else _quotient_of_ratios
    if plain is one:  # nothing to resample
        totals = np.sum([part.sum(axis=0) for part in sums.values()], axis=0) if sums else None
        return "-" if totals is None or math.isnan(figure(totals)) else "1.00x"
    return _with_count(_interval(sums, figure, "x"), sums, count)


def _sums(records: Sequence[Result], figures: Callable[[Result], Sequence[float]]) -> np.ndarray:
    return np.asarray([figures(record) for record in records], float)


def _emitted(record: Result) -> tuple[float, float]:
    """Tokens and steps of an answer."""
    own = cost([record])
    return own.tokens, own.steps


def _decoding(record: Result) -> tuple[float, float]:
    """Tokens of an answer and its share of its batch's seconds of decoding."""
    own = cost([record])
    return own.tokens, own.decode


def _question(record: Result) -> tuple[float]:
    """Tokens a second of an answer."""
    return (_tokens_per_second(record),)


def _tokens_per_second(record: Result) -> float:
    turns = record["turns"]
    seconds = sum(turn["seconds"][name] for turn in turns for name in ("retrieval", "prefill", "decode"))
    return ratio(sum(len(turn["token_ids"]) for turn in turns), seconds)


def _first_over_second(totals: np.ndarray) -> np.ndarray:
    return _over(totals[..., 0], totals[..., 1])


def _quotient_of_ratios(totals: np.ndarray) -> np.ndarray:
    return _over(_over(totals[..., 0], totals[..., 1]), _over(totals[..., 2], totals[..., 3]))


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A quotient; nan over nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), math.nan), where=whole != 0)


def _interval(sums: Sums, figure: Callable[[np.ndarray], np.ndarray], unit: str) -> str:
    if not sums:
        return "-"
    found: Interval = ratio_interval(sums, figure)
    if math.isnan(found.value):
        return "-"
    if math.isnan(found.low):
        return f"{found.value:.2f}{unit}"
    return f"{found.value:.2f}{unit} [{found.low:.2f}, {found.high:.2f}]"


def _with_count(text: str, sums: Sums, expected: int) -> str:
    count = sum(map(len, sums.values()))
    return text if text == "-" or count == expected else f"{text} ({count})"
