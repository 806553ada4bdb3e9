"""Plots of a report, as SVG text: what a sweep changes, and what context length does."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from rapid_jax.evaluation.packages import require_package
from rapid_jax.evaluation.series import Series, baseline, cost, scored, speed_up
from rapid_jax.evaluation.statistics import macro_mean_and_error


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture with a name that is fit for a file."""

    name: str
    title: str
    svg: str


Measure = Callable[[Series], tuple[float, float]]  # a value and its standard error, nan where there is none


def plots(series: Sequence[Series], metric: str | None, *, timings: bool = True) -> list[Plot]:
    """One plot for every setting with several numeric values (context length among them) and every measure."""
    measures: dict[str, Measure] = {}
    if metric is not None:
        measures[f"{metric}, average over tasks"] = lambda one: _average(one, metric)
    measures["acceptance, kept of tested"] = lambda one: (_or_nan(cost(one.records).kept_over("tested")), math.nan)
    if timings:
        measures["decode speed-up over lc"] = lambda one: (_speed_up(one, series), math.nan)
    found = []
    for axis in _axes(series):
        lines = _lines(series, axis)
        for title, measure in measures.items():
            points = {label: [(x, *measure(one)) for x, one in line] for label, line in lines.items() if len(line) > 1}
            points = {label: line for label, line in points.items() if not all(math.isnan(y) for _, y, _ in line)}
            if points:
                name = f"{title.split(',')[0]} over {axis}".replace(" ", "-").replace("_", "-")
                found.append(Plot(name, f"{title}, over {axis.replace('_', ' ')}", _draw(axis, title, points)))
    return found


def _axes(series: Sequence[Series]) -> list[str]:
    names = ["context_length", *dict.fromkeys(name for one in series for name, _ in one.key.variation)]
    return [name for name in names if len({_value(one, name) for one in series} - {None}) > 1]


def _value(one: Series, axis: str) -> float | None:
    value = one.key.context_length if axis == "context_length" else dict(one.key.variation).get(axis)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _lines(series: Sequence[Series], axis: str) -> dict[str, list[tuple[float, Series]]]:
    """Series that differ in the axis alone, by what else they are; one without a value there is no point of a line."""
    several_lengths = len({one.key.context_length for one in series}) > 1
    lines: dict[str, list[tuple[float, Series]]] = {}
    for one in series:
        x = _value(one, axis)
        if x is None:
            continue
        rest = tuple(pair for pair in one.key.variation if pair[0] != axis)
        label = dataclasses.replace(one.key, variation=rest).label
        if several_lengths and axis != "context_length":
            label += f", {one.key.context_length:,} tokens"
        lines.setdefault(label, []).append((x, one))
    return {label: sorted(line, key=lambda point: point[0]) for label, line in lines.items()}


def _speed_up(one: Series, series: Sequence[Series]) -> float:
    return speed_up(one, baseline(series, one, "lc"))[0]


def _average(one: Series, metric: str) -> tuple[float, float]:
    answered = scored([one], metric)
    return macro_mean_and_error(answered[0].scores(metric)) if answered else (math.nan, math.nan)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _draw(axis: str, title: str, lines: dict[str, list[tuple[float, float, float]]]) -> str:
    require_package("matplotlib", "a report with plots")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "rapid_jax", "svg.fonttype": "none"}):  # the same picture, byte for byte
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes: Any = figure.add_subplot()
        for label, line in lines.items():
            x, y, errors = zip(*line, strict=True)
            spread = None if all(math.isnan(error) for error in errors) else [0 if math.isnan(e) else e for e in errors]
            shown = label.replace("$", r"\$")  # what stands between two of them would be read as a formula
            axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, label=shown)
        positive = all(x > 0 for line in lines.values() for x, _, _ in line)
        if axis in ("context_length", "retrieval_tokens") and positive:
            axes.set_xscale("log", base=2)
            ticks = sorted({x for line in lines.values() for x, _, _ in line})
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        if "speed-up" in title:
            axes.axhline(1, color="grey", linewidth=0.8)
        axes.set_xlabel(axis.replace("_", " ") + (", tokens" if axis.endswith(("length", "tokens")) else ""))
        axes.set_ylabel(title)
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
