"""Turns, medians and ratios, with contestants whose runs are written down."""

import dataclasses
import itertools

import pytest

from rapid_jax.benchmarking.bandwidth import Bandwidth, measure_bandwidth
from rapid_jax.benchmarking.measurement import Cell, Sample, measure

CELL = Cell(context_length=1024, batch=2, gamma=3, new_tokens=8)


@dataclasses.dataclass
class Scripted:
    """Takes these seconds, run by run; the first run does not count."""

    name: str
    seconds: list
    steps: list
    log: list
    counts: tuple = (None, None, None)
    context_tokens: int = 1000
    retrieved_tokens: int | None = None
    forced_acceptance: float | None = None

    def __post_init__(self):
        self._runs = itertools.count()

    def bytes_per_step(self, drafter_forwards):
        return round(1000 + 100 * drafter_forwards)

    def run(self):
        run = next(self._runs)
        self.log.append((self.name, run))
        return Sample([[0] * 8, [0] * 8], self.steps, self.seconds[run], 2.0 + run, *self.counts)


@pytest.fixture
def measured():
    log, ticks = [], []
    lc = Scripted("lc", [99, 2.0, 4.0, 1.6], [8, 8], log)
    sd = Scripted("sd", [99, 1.0, 0.8, 5.0], [2, 4], log, counts=(18, 8, 4), retrieved_tokens=500)
    bandwidth = Bandwidth("read", 1 << 20, 2000.0)
    return measure(CELL, [lc, sd], 3, bandwidth, 2, lambda: ticks.append(1)), log, ticks


def test_contestants_take_turns_after_an_unmeasured_run(measured):
    """A machine that grows warm or busy must not favour whoever runs first."""
    _, log, ticks = measured
    assert log == [(name, run) for run in range(4) for name in ("lc", "sd")]
    assert len(ticks) == 8


def test_medians_and_ratios(measured):
    (lc, sd), _, _ = measured
    assert (lc.tokens_per_second, sd.tokens_per_second) == (16 / 2.0, 16 / 1.0)
    assert (lc.speed_up, sd.speed_up) == (1, 2)
    assert (lc.tokens_per_step, sd.tokens_per_step) == (1, 16 / 6)
    assert (lc.step_seconds, sd.step_seconds) == (2.0 / 8, 1.0 / 4)
    assert sd.bandwidth_share == 1000 / 0.25 / 4000
    assert lc.prefill_seconds == 4.0
    assert (lc.kept_over_tested, sd.kept_over_tested, sd.kept_over_proposed) == (None, 0.5, 4 / 18)


def test_an_object_names_its_cell(measured):
    """Scripts join rows by these names."""
    (lc, sd), _, _ = measured
    written = sd.to_dict()
    assert {k: written[k] for k in ("method", "context_length", "batch", "gamma", "new_tokens")} == {
        "method": "sd", **dataclasses.asdict(CELL)
    }  # fmt: skip
    assert written["acceptance"] == {"kept_over_tested": 0.5, "kept_over_proposed": 0.2222}
    assert lc.to_dict()["acceptance"] == {"kept_over_tested": None, "kept_over_proposed": None}
    assert written["retrieved_tokens"] == 500 and lc.to_dict()["retrieved_tokens"] is None


def test_without_lc_there_is_no_speed_up():
    sd = Scripted("sd", [1, 1], [2, 4], [])
    (row,) = measure(CELL, [sd], 1, Bandwidth("read", 1, 1.0), 1, lambda: None)
    assert row.speed_up is None


def test_bandwidth_is_measured_and_said():
    """A share of the bandwidth means nothing without how that was found."""
    found = measure_bandwidth(1 << 20)
    assert found.array_bytes == 1 << 20 and found.bytes_per_second > 0
    assert found.to_dict()["gigabytes_per_second"] == pytest.approx(found.bytes_per_second / 1e9, rel=1e-3)


@pytest.mark.parametrize("share, warned", [(0.5, True), (0.01, False), (None, False)])
def test_a_busy_host_is_said(measured, capsys, share, warned):
    """Spinning threads lose up to fifty times beside another process: such a figure must not look like any other."""
    from launch import speed_table

    rows = [dataclasses.replace(row, other_load=share) for row in measured[0]]
    speed_table.print_tables(rows, None)
    assert ("WARNING: other processes took up to 50%" in capsys.readouterr().out) == warned
