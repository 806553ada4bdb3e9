"""Prints the measurements of launch.benchmark, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from launch.printing import print_line
from rapid_jax.benchmarking.measurement import Measurement
from rapid_jax.benchmarking.sweep import Sweep
from rapid_jax.config.methods import METHODS
from rapid_jax.speculation import describe_crossing

_LEGEND = """\
tokens/s: all rows together, decoding alone. speed-up: over lc's tokens/s.
tokens/step: of a row. prefill: of the document, and of what the drafter reads.
read: weights, keys and values that a step must read, computed; its share of the
measured bandwidth follows. accepted: of the drafted tokens that were tested."""
_BUSY = 0.05  # share of the processor that others may take


def _marked(acceptance: float | None) -> str:
    return f" [acceptance forced to {acceptance:g}]" if acceptance is not None else ""


def print_header(about: dict[str, Any], sweep: Sweep, missing: Sequence[str]) -> None:
    """What is measured, on what, and which rows are missing; `about` is what every JSON object says."""
    hardware, versions = about["hardware"], about["versions"]
    bandwidth = hardware["bandwidth"]
    print_line(f"target     {about['model']}, {about['dtype']}")
    if about["drafter"]:
        print_line(f"drafter    {about['drafter']}")
    devices = f"{hardware['devices']} x " if hardware["devices"] > 1 else ""
    print_line(f"device     {devices}{hardware['device']}; {hardware['processor']}, {hardware['cores']} cores")
    rate = f"{bandwidth['gigabytes_per_second']:.4g} GB/s"
    print_line(f"bandwidth  {rate}, measured ({bandwidth['kind']} of {bandwidth['array_bytes']:,} bytes)")
    print_line("versions   " + ", ".join(f"{k} {v}" for k, v in versions.items() if k != "device"))
    uncounted = "one that does not count" if sweep.prompts == 1 else "one of the first prompt that does not count"
    print_line(f"runs       {sweep.new_tokens} new tokens a row, median of {sweep.repeats} after {uncounted}")
    if sweep.prompts > 1:
        print_line(f"prompts    {sweep.prompts} at each context length; means, and 95% intervals of speed-ups")
    if sweep.acceptance is not None:
        print_line(
            f"ACCEPTANCE IS FORCED to {sweep.acceptance:g}: drafted tokens are accepted at random. Speeds with drafts "
            "are those that this rate would give; what is decoded is no answer of the models",
            style="bold",
        )
    for line in missing:
        print_line(line)


def print_tables(measurements: Sequence[Measurement], acceptance: float | None) -> None:
    """A table for each batch size and draft length, and where drafting methods overtake lc.

    Args:
      measurements: of a sweep; prompts of a kind taken together.
      acceptance: the forced rate, or None.
    """
    for kind, batch, gamma in dict.fromkeys(map(_table_of, measurements)):
        part = [m for m in measurements if _table_of(m) == (kind, batch, gamma)]
        drafts = any(m.kept_over_proposed is not None for m in part)
        title = (f"{kind}, " if kind else "") + f"batch {batch}" + (f", gamma {gamma}" if drafts else "")
        print_line()
        Console(highlight=False).print(_table(part, title))
        for method in dict.fromkeys(m.method for m in part):
            points = [(m.cell.context_length, m.speed_up) for m in part if m.method == method]
            speed_ups = [(length, speed_up) for length, speed_up in points if speed_up is not None]
            if len(speed_ups) > 1 and method in METHODS and METHODS[method].speculates:
                print_line(describe_crossing(method, speed_ups) + _marked(acceptance))
    print_line(f"\n{_LEGEND}")
    if acceptance is not None:
        print_line(f"* made with a forced acceptance of {acceptance:g}")
    busy = [m for m in measurements if m.other_load is not None and m.other_load > _BUSY]
    if busy:
        lengths = ", ".join(dict.fromkeys(f"{m.cell.context_length:,}" for m in busy))
        share = max(m.other_load or 0 for m in busy)
        print_line(
            f"WARNING: other processes took up to {share:.0%} of the processor at {lengths} tokens of context. Figures "
            "there do not count: measure again when nothing else runs",
            style="bold",
        )


def plot_title(about: dict[str, Any], acceptance: float | None) -> str:
    """Model, device and a forced acceptance."""
    return f"{about['model']}, {about['dtype']}, {about['hardware']['device']}" + _marked(acceptance)


def _table_of(measurement: Measurement) -> tuple[str, int, int]:
    """What is the same in all rows of a table."""
    cell = measurement.cell
    return cell.kind, cell.batch, cell.gamma


def _speed_up(m: Measurement) -> str:
    if m.speed_up is None:
        return "-"
    forced = "*" if m.forced_acceptance is not None else ""
    interval = f" {m.interval.low:.2f}-{m.interval.high:.2f}" if m.interval is not None and m.method != "lc" else ""
    return f"{m.speed_up:.2f}{forced}{interval}"


def _table(measurements: Sequence[Measurement], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0))
    table.add_column("context", justify="right")
    table.add_column("method")
    headings = ("tokens\n/s", "tokens\n/step", "step\nms", "prefill\ns", "read\nMB/step", "band-\nwidth", "acc-\nepted")
    for heading in (*headings, "speed-\nup"):
        table.add_column(heading, justify="right")
    length = None
    for m in measurements:
        forced = "*" if m.forced_acceptance is not None else ""
        table.add_row(
            f"{m.cell.context_length:,}" if m.cell.context_length != length else "",
            m.method + forced,
            f"{m.tokens_per_second:,.1f}",
            f"{m.tokens_per_step:.2f}",
            f"{m.step_seconds * 1e3:,.1f}",
            f"{m.prefill_seconds:,.2f}",
            f"{m.bytes_per_step / 1e6:,.0f}",
            f"{m.bandwidth_share:.0%}",
            "-" if m.kept_over_tested is None else f"{m.kept_over_tested:.2f}",
            _speed_up(m),
        )
        length = m.cell.context_length
    return table
