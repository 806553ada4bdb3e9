"""Speed-up over context length, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rapid_jax.benchmarking.measurement import Measurement
from rapid_jax.speculation import crossing_point


def plot_speed_ups(measurements: Sequence[Measurement], path: Path, title: str) -> None:
    """Draws one line for each method, kind of prompt, batch size and draft length, and marks where it crosses 1.

    Args:
      measurements: of a run with lc, prompts of a kind taken together; rows without a speed-up are left out.
      path: its suffix, such as .png or .svg, says the format.
      title: what was measured, and on what.
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[int, float]]] = {}
    several = len({(m.cell.batch, m.cell.gamma) for m in measurements}) > 1
    for m in measurements:
        if m.speed_up is not None and m.method != "lc":
            label = f"{m.method}, batch {m.cell.batch}, gamma {m.cell.gamma}" if several else m.method
            label += f", {m.cell.kind}" if m.cell.kind else ""
            lines.setdefault(label, []).append((m.cell.context_length, m.speed_up))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1, color="grey", linewidth=1)
    for label, points in lines.items():
        points.sort()
        (drawn,) = axes.plot(*zip(*points, strict=True), marker="o", label=label)
        crossing = crossing_point(points)
        if crossing is not None:
            axes.plot(crossing, 1, marker="x", markersize=10, color=drawn.get_color())
            drawn.set_label(f"{label}, from {crossing:,.0f} tokens")  # beside the cross two of them would overlap
    lengths = sorted({m.cell.context_length for m in measurements})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="context length, tokens", ylabel="decoding speed over lc's", title=title)
    if lines:
        axes.legend()
    figure.savefig(path)
