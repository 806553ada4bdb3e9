"""The tables of a report: quality with errors, differences with intervals, speed, success and failure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rapid_jax.evaluation.series import Record, Series, cost, outcomes, same_answers
from rapid_jax.evaluation.statistics import macro_mean_and_error, mean_and_error, paired_bootstrap

BASELINES = ("lc", "rag")


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text; the first column names the row. `note` says how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def quality(series: Sequence[Series], metric: str) -> Table:
    """Score of every series on every task and over all tasks, and in the groups that the benchmark names."""
    tasks = list(dict.fromkeys(task for one in series for task in one.tasks()))
    groups = list(dict.fromkeys(group for one in series for group in one.groups()))
    rows = []
    for one in series:
        scores = one.scores(metric)
        cells = [_mean(scores.get(task, [])) for task in tasks]
        if len(tasks) > 1:
            cells.append(_figure(*macro_mean_and_error(scores), len(one.records)))
        cells += [_mean(_metric(one.groups().get(group, []), metric)) for group in groups]
        rows.append((one.key.label, *cells))
    average = ("average",) if len(tasks) > 1 else ()
    note = "In percent, with the standard error and the number of questions"
    note += "; the average counts tasks alike." if average else "."
    return Table(f"Quality ({metric})", ("method", *tasks, *average, *groups), tuple(rows), note)


def differences(series: Sequence[Series], metric: str) -> Table | None:
    """Each method against the plain target and against retrieval alone, on the questions that both answered."""
    tasks = list(dict.fromkeys(task for one in series for task in one.tasks()))
    rows = []
    for baseline in (one for one in series if one.key.method in BASELINES):
        for one in series:
            shared = one.by_item.keys() & baseline.by_item.keys()
            if one is baseline or one.key.method == "lc" or not shared:
                continue
            ours, theirs = (s.restricted(shared).scores(metric) for s in (one, baseline))
            paired = {task: (ours[task], theirs[task]) for task in ours}
            cells = [_interval({task: paired[task]}) if task in paired else "-" for task in tasks]
            if len(tasks) > 1:
                cells.append(_interval(paired))
            rows.append((f"{one.key.label} - {baseline.key.label}", *cells))
    if not rows:
        return None
    columns = ("difference", *tasks, *(("average",) if len(tasks) > 1 else ()))
    note = (
        "In points, with the 95% interval of a paired bootstrap over questions (10,000 resamples, within tasks); "
        "an asterisk marks an interval clear of zero. Questions about one document are not independent of each other, "
        "which no resampling of questions can show."
    )
    return Table("Differences", columns, tuple(rows), note)


def speed(series: Sequence[Series]) -> Table:
    """What every series cost beside the plain target."""
    plain = next((one for one in series if one.key.method == "lc"), None)
    base = cost(plain.records) if plain else None
    rows = []
    for one in series:
        own = cost(one.records)
        decode = own.tokens_per_second / base.tokens_per_second if base else math.nan
        total = base.end_to_end / own.end_to_end if base and own.answers == base.answers else math.nan
        rows.append(
            (
                one.key.label,
                f"{own.prefill_seconds:.2f}",
                f"{own.tokens_per_second:.1f}",
                _ratio(decode),
                f"{own.end_to_end:.2f}",
                _ratio(total),
                f"{own.tokens_per_step:.2f}",
                _share(own.kept_over("tested")),
                _share(own.kept_over("proposed")),
            )
        )
    columns = (
        "method",
        "prefill s",
        "decode tokens/s",
        "speed-up, decode only",
        "end to end s",
        "speed-up, end to end",
        "tokens/step",
        "kept of tested",
        "kept of drafted",
    )
    note = (
        "Seconds are those of a batch with its document's prefill; compilation excluded. Speed-ups are over lc. A "
        "draft is tested up to its first rejection."
    )
    return Table("Speed", columns, tuple(rows), note)


def speed_by_task(series: Sequence[Series]) -> Table | None:
    """Decoding speed-up over the plain target by task: short answers gain less."""
    plain = next((one for one in series if one.key.method == "lc"), None)
    if plain is None or len(series) < 2:
        return None
    tasks = plain.tasks()
    rows = []
    for one in series:
        own = one.tasks()
        cells = [
            f"{_ratio(cost(own[t]).tokens_per_second / cost(tasks[t]).tokens_per_second)} "
            f"({cost(own[t]).tokens_per_step:.2f})"
            if t in own
            else "-"
            for t in tasks
        ]
        rows.append((one.key.label, *cells))
    note = "Decode-only speed-up over lc; in brackets tokens per step."
    return Table("Speed-up by task", ("method", *tasks), tuple(rows), note)


def against_target(series: Sequence[Series], metric: str) -> Table | None:
    """Which questions each method wins or loses against the plain target."""
    plain = next((one for one in series if one.key.method == "lc"), None)
    if plain is None or len(series) < 2:
        return None
    rows = []
    for one in series:
        if one is plain:
            continue
        found = outcomes(one, plain, metric)
        equal, shared = same_answers(one, plain)
        rows.append(
            (
                one.key.label,
                *(str(n) for n in (found.both, found.only_method, found.only_baseline, found.neither)),
                _share(found.relative_success),
                _share(found.relative_failure),
                f"{equal} of {shared}",
            )
        )
    columns = (
        "method",
        "both good",
        "only the method",
        "only lc",
        "neither",
        "relative success",
        "relative failure",
        "same tokens as lc",
    )
    note = (
        "Good: a score of at least one half. Relative success: share of lc's failures that the method answers; "
        "relative failure: share of lc's good answers that the method loses."
    )
    return Table("Against the plain target", columns, tuple(rows), note)


def equality(series: Sequence[Series]) -> Table | None:
    """Where a benchmark has no score: how many answers are those of plain decoding."""
    plain = next((one for one in series if one.key.method == "lc"), None)
    if plain is None or len(series) < 2:
        return None
    pairs = [(one.key.label, same_answers(one, plain)) for one in series if one is not plain]
    rows = tuple((label, f"{equal} of {shared}") for label, (equal, shared) in pairs)
    return Table("Against plain decoding", ("method", "same tokens as lc"), rows)


def _metric(records: Sequence[Record], metric: str) -> list[float]:
    return [record["scores"][metric] for record in records]


def _mean(scores: Sequence[float]) -> str:
    return _figure(*mean_and_error(scores), len(scores)) if scores else "-"


def _figure(mean: float, error: float, count: int) -> str:
    spread = "" if math.isnan(error) else f" ± {100 * error:.1f}"
    return f"{100 * mean:.1f}{spread} ({count})"


def _interval(paired: dict) -> str:
    found = paired_bootstrap(paired)
    mark = "*" if found.clear_of_zero else ""
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{mark}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}x"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
