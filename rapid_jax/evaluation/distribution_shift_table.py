"""The measured distribution shift of verification rules (`evaluation.distribution_shift`) on disk and as a table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapid_jax.config.speculation import RESIDUALS, TAIL_RULES
from rapid_jax.evaluation.benchmarks.files import parse_record
from rapid_jax.evaluation.statistics import mean_and_error
from rapid_jax.evaluation.tables import Table
from rapid_jax.evaluation.writing import replace_text

FILE = "rules.jsonl"
FIGURES = ("from_p", "from_p_hat", "p_hat_from_p", "acceptance")

_MOST = 2**62  # of a context length: more is damage
_ROUNDING = 1e-3  # by which a sum of probabilities in float32 may miss its range


def write_shifts(directory: Path, records: Sequence[dict[str, Any]]) -> None:
    """Replaces the file of figures in a directory of results.

    Raises:
      OSError: it cannot be written; names it.
    """
    replace_text(directory / FILE, shift_lines(records))


def shift_lines(records: Sequence[dict[str, Any]]) -> str:
    """The figures as the lines of the file."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_shifts(directory: Path) -> list[dict[str, Any]]:
    """The figures of a directory of results; none where they were not asked for.

    Raises:
      ValueError: a line that holds no figures, named by its number.
    """
    path = directory / FILE
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; it should be a file of figures, or not be there")
    lines = path.read_bytes().splitlines() if path.is_file() else []
    found: dict[tuple, dict[str, Any]] = {}  # a line that stands twice counts once
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = parse_record(line, f"{path}, line {number}: no figures of a verification rule")
        record.text("item")
        record.one_of("tail", TAIL_RULES)
        record.one_of("residual", RESIDUALS)
        record.count("context_length", 0, _MOST)
        for name in ("eta", "temperature"):
            record.number(name, 0, _MOST)
        for name in FIGURES:
            record.number(name, -_ROUNDING, 1 + _ROUNDING)
        key = tuple(record.fields[name] for name in ("context_length", "item", "tail", "residual"))
        found.setdefault(key, dict(record.fields))
    return list(found.values())


def shift_table(records: Sequence[dict[str, Any]]) -> Table:
    """Means over questions, a row for each rule and context length that was measured."""
    rows = []
    for length in dict.fromkeys(record["context_length"] for record in records):
        for tail, residual in itertools.product(TAIL_RULES, RESIDUALS):
            chosen = [r for r in records if (r["context_length"], r["tail"], r["residual"]) == (length, tail, residual)]
            if not chosen:
                continue
            figures = (mean_and_error([record[name] for record in chosen]) for name in FIGURES)
            cells = (f"{mean:.4f} ± {error:.4f}" for mean, error in figures)
            rows.append((f"{tail}, {residual}", f"{length:,}", *cells, str(len(chosen))))
    eta, temperature = records[0]["eta"], records[0]["temperature"]
    note = (
        f"Exact laws of the emitted token from the models' p and q along lc's answers, eta {eta:g}, temperature "
        f"{temperature:g}; total variation in [0, 1], means over questions with standard errors. p_hat with residual "
        "exact is 0 by construction."
    )
    columns = (
        "tail, residual",
        "tokens",
        "TV from p",
        "TV from p_hat",
        "TV of p_hat from p",
        "acceptance",
        "questions",
    )
    return Table("Verification rules", columns, tuple(rows), note)
