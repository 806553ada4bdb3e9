"""The cost model against the clock: the same programs compiled for this machine, and run."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from models.progress import ProgressCallback
from rapid_jax.benchmarking.bandwidth import best_seconds, measure_bandwidth
from rapid_jax.benchmarking.measurement import Measurement
from rapid_jax.benchmarking.prompts import archive_prompts
from rapid_jax.benchmarking.sweep import Sweep, run_sweep
from rapid_jax.config.methods import Method, get_method
from rapid_jax.engine.engine import Engine
from rapid_jax.evaluation.tables import Table
from rapid_jax.planning.cost import Rates
from rapid_jax.planning.predict import Prediction, predict
from rapid_jax.planning.shapes import Plan, Workload
from rapid_jax.speculation import speculation_pays

_SIDE = 2048  # of the matrices whose product is timed


@dataclasses.dataclass(frozen=True)
class Checked:
    """A prediction and what was measured of it.

    Attributes:
      prediction: with the rates of this machine.
      plain, method: measurements of plain decoding and of the method.
    """

    prediction: Prediction
    plain: Measurement
    method: Measurement


def measure_rates(dtype: jnp.dtype) -> Rates:
    """This machine's first device: memory bandwidth, and operations a second of a product of two large matrices."""
    matrix = jnp.ones((_SIDE, _SIDE), dtype)
    seconds = best_seconds(jax.jit(jnp.matmul), matrix, matrix)
    return Rates(measure_bandwidth().bytes_per_second, 2 * _SIDE**3 / seconds)


def check(
    engine: Engine,
    method: Method,
    context: int,
    batch: int,
    *,
    repeats: int = 3,
    progress: ProgressCallback | None = None,
) -> Checked:
    """Predicts and measures a method that drafts, on one device.

    Args:
      engine: with a `benchmark_config`.
      method: to be run beside plain decoding.
      context: tokens of the document, a made archive.
      batch: rows.
      repeats: measured runs of each.
      progress: called with (runs done, runs in all).
    """
    config, model = engine.config, engine.target
    gamma = config.speculation.gamma
    sweep = Sweep((get_method("lc"), method), (context,), (batch,), (gamma,), config.sampling.max_new_tokens, repeats)
    make = functools.cache(archive_prompts)
    (read,) = make(engine, context, batch)
    rates = measure_rates(model.decoder.dtype)
    done, total = 0, sweep.runs()

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    plain, measured = next(run_sweep(sweep, engine, make, measure_bandwidth(), tick=tick))
    workload = Workload(
        len(read.document),
        batch,
        gamma,
        config.prefill_chunk,
        config.sampling.max_new_tokens,
        passages=measured.retrieved_tokens,
    )
    plan = Plan(model.config, None, model.decoder.dtype, model.decoder.backend)
    return Checked(predict(plan, workload, method, rates), plain, measured)


def table(checked: Checked) -> Table:
    """Predicted and measured side by side."""
    p, plain, method = checked.prediction, checked.plain, checked.method
    steps = [
        ("step of lc, ms", 1e3 * p.costs().plain, 1e3 * plain.step_seconds),
        (f"step of {method.method}, ms", 1e3 * p.step_seconds, 1e3 * method.step_seconds),
        ("prefill of lc, s", p.reading_seconds(p.workload.context), plain.prefill_seconds),
    ]
    rows: list[tuple[str, ...]] = [(name, f"{a:,.2f}", f"{b:,.2f}", f"{b / a:.2f}") for name, a, b in steps]
    costs = p.costs()
    gamma, acceptance = p.workload.gamma, method.kept_over_tested or 0.0
    wins = ["wins" if w else "loses" for w in (speculation_pays(costs, acceptance, gamma), (method.speed_up or 0) > 1)]
    rows.append((f"{method.method} at acceptance {acceptance:.2f}", *wins, "agree" if wins[0] == wins[1] else "differ"))
    note = (
        f"Rates of this machine, measured: {p.rates.bytes_per_second / 1e9:.1f} GB/s, "
        f"{p.rates.flops_per_second / 1e9:.0f} GFLOP/s."
    )
    return Table("cost model on this machine", ("", "predicted", "measured", "ratio"), tuple(rows), note)


def to_dict(checked: Checked) -> dict[str, Any]:
    """A JSON object: seconds predicted, and both measurements."""
    p = checked.prediction
    return dict(
        rates=dataclasses.asdict(p.rates),
        predicted=dict(plain=p.costs().plain, step=p.step_seconds, prefill=p.reading_seconds(p.workload.context)),
        measured=[checked.plain.to_dict(), checked.method.to_dict()],
    )
