"""Turns, medians and ratios, with contestants whose runs are written down."""

import dataclasses
import itertools

import pytest

from rapid_jax.benchmarking.bandwidth import Bandwidth, measure_bandwidth
from rapid_jax.benchmarking.measurement import Cell, Sample, averages, measure

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
    assert written.items() >= {"method": "sd", "kind": "", "prompt": 0, "context_length": 1024}.items()
    assert written.items() >= {"batch": 2, "gamma": 3, "new_tokens": 8}.items()
    assert written["acceptance"] == {"kept_over_tested": 0.5, "kept_over_proposed": 0.2222}
    assert lc.to_dict()["acceptance"] == {"kept_over_tested": None, "kept_over_proposed": None}
    assert written["retrieved_tokens"] == 500 and lc.to_dict()["retrieved_tokens"] is None


def test_contestants_that_have_run_before_are_measured_at_once():
    log = []
    lc = Scripted("lc", [2.0, 4.0], [8, 8], log)
    (row,) = measure(CELL, [lc], 2, Bandwidth("read", 1, 1.0), 1, lambda: None, warm=True)
    assert log == [("lc", 0), ("lc", 1)] and row.tokens_per_second == pytest.approx((16 / 2 + 16 / 4) / 2)


def test_prompts_of_a_kind_are_taken_together(measured):
    """A mean of speed-ups weighs a prompt on which drafts win twice as much as one on which they lose by half."""
    lc, sd = measured[0]

    def rows(kind, prompt, speed_up, tokens_per_step, kept):
        cell = dataclasses.replace(CELL, kind=kind, prompt=prompt)
        yield dataclasses.replace(lc, cell=cell)
        yield dataclasses.replace(
            sd, cell=cell, tokens_per_second=8 * speed_up, speed_up=speed_up, tokens_per_step=tokens_per_step,
            kept_over_tested=kept, other_load=speed_up / 10,
        )  # fmt: skip

    found = averages([*rows("quote", 0, 2.0, 4, 0.5), *rows("ask", 0, 3.0, 2, None), *rows("quote", 1, 0.5, 1, 0.7)])
    assert [(m.cell.kind, m.method) for m in found] == [("quote", "lc"), ("quote", "sd"), ("ask", "lc"), ("ask", "sd")]
    _, quote, _, ask = found
    assert quote.speed_up == pytest.approx(1.0) and quote.tokens_per_second == pytest.approx(8.0)
    assert quote.tokens_per_step == pytest.approx(2 / (1 / 4 + 1))
    assert quote.kept_over_tested == pytest.approx(0.6)
    assert quote.other_load == 0.2
    assert quote.interval.low == pytest.approx(0.5) and quote.interval.high == pytest.approx(2.0)
    assert ask.speed_up == 3.0 and ask.interval is None and ask.kept_over_tested is None


def test_means_of_prompts_are_shown_with_their_interval(measured, capsys):
    from launch import speed_table

    prompts = [
        dataclasses.replace(row, cell=dataclasses.replace(CELL, kind="quote", prompt=prompt), speed_up=row.speed_up)
        for prompt in range(2)
        for row in measured[0]
    ]
    speed_table.print_tables(averages(prompts), None)
    printed = capsys.readouterr().out
    assert "quote, batch 2, gamma 3" in printed and "2.00 2.00-2.00" in printed and "1.00 1.00" not in printed
    assert max(map(len, printed.splitlines())) <= 80


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


def test_a_crossing_is_told_of_several_lengths_alone(measured, capsys):
    """At one length the table has said it already, and ten methods would say it in ten lines."""
    from launch import speed_table

    def at(length):
        cell = dataclasses.replace(CELL, context_length=length)
        return [dataclasses.replace(row, cell=cell, speed_up=1.0 if row.method == "lc" else 0.5) for row in measured[0]]

    speed_table.print_tables(at(1024), None)
    assert "slower than lc" not in capsys.readouterr().out
    speed_table.print_tables([*at(1024), *at(2048)], None)
    sentence = "sd is slower than lc at 2,048 tokens of context, the longest measured."
    assert capsys.readouterr().out.count(sentence) == 1
    speed_table.print_tables([*at(1024), *at(2048)], 0.8)
    assert f"{sentence} [acceptance forced to 0.8]" in capsys.readouterr().out
