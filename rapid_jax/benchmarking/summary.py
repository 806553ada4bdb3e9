"""Measurements of launch.benchmark over many prompts, taken together: speed-ups by context length and by kind."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation.statistics import geometric_mean
from rapid_jax.evaluation.tables import Table

_NEEDED = ("method", "kind", "context_length", "tokens_per_second", "tokens_per_step", "speed_up", "prompt")
_NOTE = (
    "Speed-ups over lc on the same prompt, decoding alone: the geometric mean over prompts, with the 95% interval of a "
    "bootstrap."
)


def read_measurements(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of files that launch.benchmark wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line that is no measurement; names file and line.
    """
    found = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
                missing = [name for name in _NEEDED if name not in record]
            except (ValueError, TypeError):
                missing = ["JSON"]
            if missing:
                raise ValueError(f"{path}:{number} is no measurement of launch.benchmark (no {missing[0]})")
            found.append(record)
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: there is no measurement")
    return found


def speed_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Speed-ups by context length, and by kind of prompt where there are several."""
    lengths = sorted({record["context_length"] for record in records})
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    tables = [_table("by context length", records, lengths, lambda r: r["context_length"], "{:,} tokens")]
    if len(kinds) > 1:
        tables.append(_table("by kind of prompt", records, kinds, lambda r: r["kind"], "{}"))
    return tables


def _table(
    title: str,
    records: Sequence[dict[str, Any]],
    groups: Sequence[Any],
    group_of: Callable[[dict[str, Any]], Hashable],
    label: str,
) -> Table:
    rows = []
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        cells = [_speed(method, [r for r in own if group_of(r) == group]) for group in groups]
        cells += [_speed(method, own)] if len(groups) > 1 else []
        ups = [r["speed_up"] for r in own if r["speed_up"] is not None]
        ends = (f"{min(ups):.2f}", f"{max(ups):.2f}") if ups and method != "lc" else ("-", "-")
        steps = statistics.harmonic_mean([r["tokens_per_step"] for r in own])
        rows.append((method, *cells, *ends, f"{steps:.2f}"))
    prompts = [
        len({(r["context_length"], r["kind"], r["prompt"]) for r in records if group_of(r) == g}) for g in groups
    ]
    names = [f"{label.format(group)} ({count})" for group, count in zip(groups, prompts, strict=True)]
    names += [f"all ({sum(prompts)})"] if len(groups) > 1 else []
    return Table(f"Speed {title}", ("method", *names, "slowest", "fastest", "tokens a step"), tuple(rows), _NOTE)


def _speed(method: str, records: Sequence[dict[str, Any]]) -> str:
    """One cell: of lc tokens a second, of the others the speed-up."""
    if not records:
        return "-"
    if method == "lc":
        return f"{statistics.geometric_mean(r['tokens_per_second'] for r in records):.1f} tokens/s"
    ups = [r["speed_up"] for r in records if r["speed_up"] is not None]
    if not ups:
        return "-"
    if len(ups) == 1:
        return f"{ups[0]:.2f}"
    found = geometric_mean(ups)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
