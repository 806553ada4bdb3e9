"""The tables of a report: quality with errors, differences with intervals, speed, success and failure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rapid_jax.evaluation.series import (
    Key,
    Result,
    Series,
    baseline,
    cost,
    outcomes,
    ratio,
    same_answers,
    speed_up,
)
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
    for method in BASELINES:
        for one in series:
            other = baseline(series, one, method)
            if other is None or other is one or one.key.method == "lc":
                continue
            shared = one.by_item.keys() & other.by_item.keys()
            if not shared:
                continue
            paired: dict[str, tuple[list[float], list[float]]] = {}
            for result in one.restricted(shared).records:
                ours, theirs = paired.setdefault(result["task"], ([], []))
                ours.append(result["scores"][metric])
                theirs.append(other.by_item[result["item"]]["scores"][metric])
            cells = [_interval({task: paired[task]}) if task in paired else "-" for task in tasks]
            if len(tasks) > 1:
                cells.append(_interval(paired))
            rows.append((f"{one.key.label} - {other.key.label}", *cells))
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
    rows = []
    for one in series:
        own, plain = cost(one.records), baseline(series, one, "lc")
        decode, total = speed_up(one, plain)
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
        "Seconds are those of a batch with its document's prefill; compilation excluded. Speed-ups are over lc, on the "
        "questions that both answered. A draft is tested up to its first rejection."
    )
    return Table("Speed", columns, tuple(rows), note)


def drafts(series: Sequence[Series]) -> Table | None:
    """What databases contributed, and how many forwards the drafting model took."""
    sources = list(dict.fromkeys(name for one in series for name in cost(one.records).by_source))
    if not sources:
        return None
    rows = []
    for one in series:
        own = cost(one.records)
        cells = [f"{ratio(own.by_source[name], own.steps):.2f}" if name in own.by_source else "-" for name in sources]
        forwards = f"{ratio(own.drafter_forwards, own.proposed):.2f}" if own.drafter_forwards else "-"
        rows.append((one.key.label, f"{own.tokens_per_step:.2f}", *cells, forwards))
    columns = ("method", "tokens/step", *(f"from {name}" for name in sources), "drafter forwards/drafted")
    note = "Accepted tokens a step by the database that they come from; forwards of a drafting model a drafted token."
    return Table("Drafts from databases", columns, tuple(rows), note)


def against_target(series: Sequence[Series], metric: str) -> Table | None:
    """Which questions each method wins or loses against the plain target."""
    rows = []
    for one in series:
        plain = baseline(series, one, "lc")
        if plain is None or plain is one:
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
    if not rows:
        return None
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
    pairs = ((one, baseline(series, one, "lc")) for one in series)
    equal = [
        (one.key.label, *same_answers(one, plain)) for one, plain in pairs if plain is not None and plain is not one
    ]
    if not equal:
        return None
    rows = tuple((label, f"{same} of {shared}") for label, same, shared in equal)
    return Table("Against plain decoding", ("method", "same tokens as lc"), rows)


def failures(failed: Sequence[Result], series: Sequence[Series]) -> Table:
    """What could not be asked, by method and length, with the reason of the first.

    Args:
      failed: the failures.
      series: what was answered.
    """
    answered = {(one.key.context_length, one.key.label): len(one.records) for one in series}
    groups: dict[tuple[int, str], list[Result]] = {}
    for result in failed:
        key = Key(result["context_length"], result["method"], tuple(result["variation"].items()))
        groups.setdefault((key.context_length, key.label), []).append(result)
    rows = []
    for (length, label), found in groups.items():
        total = len(found) + answered.get((length, label), 0)
        first = f"{found[0]['item']}: {found[0]['failed']}"
        rows.append((label, f"{length:,}" if length else "-", f"{len(found)} of {total}", " ".join(first.split())))
    note = "These questions count in no other table. The file of results holds the reason of each."
    return Table("Failed", ("method", "tokens", "failed", "the first"), tuple(rows), note)


def _metric(records: Sequence[Result], metric: str) -> list[float]:
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
