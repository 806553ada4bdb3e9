"""Contestants take turns in a cell of the benchmark; medians of their runs are its measurements."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from rapid_jax.benchmarking.bandwidth import Bandwidth
from rapid_jax.benchmarking.hardware import OtherLoad
from rapid_jax.evaluation.statistics import Interval, geometric_mean

_MEANS = (
    *("step_seconds", "prefill_seconds", "drafter_forwards", "bandwidth_share"),
    *("kept_over_tested", "kept_over_proposed"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What all contestants of a comparison have in common.

    Attributes:
      context_length: tokens of the document that were asked for.
      batch: rows decoded together.
      gamma: tokens drafted in a step, by those that draft.
      new_tokens: tokens that every row decodes.
      kind: of the prompt, where a benchmark has several kinds; else empty.
      prompt: number of the prompt among those of its kind.
    """

    context_length: int
    batch: int
    gamma: int
    new_tokens: int
    kind: str = ""
    prompt: int = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run.

    Attributes:
      tokens: what each row decoded.
      steps: decoding steps of each row.
      decode_seconds: from the first step to the last token on the host.
      prefill_seconds: the contexts' (measured once) and the questions', compilation excluded.
      proposed, tested, accepted: drafted tokens of all rows; None where nobody counts them.
      drafter_forwards: of a drafting model, of each row.
    """

    tokens: list[list[int]]
    steps: list[int]
    decode_seconds: float
    prefill_seconds: float
    proposed: int | None = None
    tested: int | None = None
    accepted: int | None = None
    drafter_forwards: tuple[int, ...] = ()


class Contestant(Protocol):
    """Decodes the cell's rows in one way, again and again."""

    @property
    def name(self) -> str:
        """The method, or the other engine."""
        ...

    def bytes_per_step(self, drafter_forwards: float) -> int:
        """See traffic.step_bytes; with so many forwards of a drafting model a step."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens of the context that the target reads; the mean where rows have their own."""
        ...

    @property
    def retrieved_tokens(self) -> int | None:
        """Tokens of the retrieved context, the mean over rows; None where nobody reads one."""
        ...

    @property
    def forced_acceptance(self) -> float | None:
        """The rate at which drafts are accepted whatever the models say; None where acceptance is real."""
        ...

    def run(self) -> Sample:
        """One run from the start."""
        ...


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One contestant's medians in one cell.

    Attributes:
      cell: see there.
      method: the contestant's name.
      tokens_per_second: of all rows together, decoding alone.
      tokens_per_step: tokens that a row emits in a step, the mean.
      step_seconds: decoding seconds over the steps of the longest row.
      prefill_seconds: see Sample.
      drafter_forwards: of a drafting model in a step, the mean.
      bytes_per_step: that the step must read, computed (traffic.step_bytes).
      bandwidth_share: bytes_per_step over step_seconds, as a share of the measured bandwidth of the devices.
      speed_up: tokens_per_second over lc's of the same cell; None without lc.
      interval: of the speed-up over prompts, at 95%; None for a single prompt.
      kept_over_tested, kept_over_proposed: accepted drafted tokens; None without drafts.
      forced_acceptance, context_tokens, retrieved_tokens: see Contestant.
      other_load: share of the host's processor that other processes took while the cell ran; None where the system
        does not tell.
    """

    cell: Cell
    method: str
    tokens_per_second: float
    tokens_per_step: float
    step_seconds: float
    prefill_seconds: float
    drafter_forwards: float
    bytes_per_step: int
    bandwidth_share: float
    speed_up: float | None
    kept_over_tested: float | None
    kept_over_proposed: float | None
    forced_acceptance: float | None
    context_tokens: int
    retrieved_tokens: int | None
    other_load: float | None
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; numbers are rounded to six digits."""
        values = {
            k: float(f"{v:.6g}") if isinstance(v, float) else v
            for k, v in vars(self).items()
            if k not in ("cell", "method", "kept_over_tested", "kept_over_proposed", "interval")
        }
        acceptance = {name: _rounded(getattr(self, name)) for name in ("kept_over_tested", "kept_over_proposed")}
        return {"method": self.method, **dataclasses.asdict(self.cell), **values, "acceptance": acceptance}


def measure(
    cell: Cell,
    contestants: Sequence[Contestant],
    repeats: int,
    bandwidth: Bandwidth,
    devices: int,
    tick: Callable[[], None],
    *,
    warm: bool = False,
) -> list[Measurement]:
    """Runs every contestant once unmeasured, then lets them take turns.

    Args:
      cell: that they were made for.
      contestants: at least one.
      repeats: measured runs of each.
      bandwidth: of one device.
      devices: how many share the bytes of a step.
      tick: called after every run.
      warm: such contestants have run before, so that no run goes unmeasured.
    """
    for contestant in () if warm else contestants:
        contestant.run()
        tick()
    load = OtherLoad()
    samples: list[list[Sample]] = [[] for _ in contestants]
    for _ in range(repeats):
        for contestant, own in zip(contestants, samples, strict=True):
            own.append(contestant.run())
            tick()
    other_load = load.share()
    speeds = [statistics.median(map(_tokens_per_second, own)) for own in samples]
    baseline = next((s for c, s in zip(contestants, speeds, strict=True) if c.name == "lc"), None)
    return [
        _measurement(cell, contestant, own, speed, baseline, bandwidth.bytes_per_second * devices, other_load)
        for contestant, own, speed in zip(contestants, samples, speeds, strict=True)
    ]


def averages(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The prompts of a kind taken together, in the order in which their cells and methods first appear.

    Speeds and speed-ups are geometric means, tokens per step are those of all prompts, the rest are means. The interval
    is the percentile bootstrap of the geometric mean over prompts.
    """
    groups: dict[tuple[Cell, str], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((dataclasses.replace(m.cell, prompt=0), m.method), []).append(m)
    return [group[0] if len(group) == 1 else _average(cell, group) for (cell, _), group in groups.items()]


def _average(cell: Cell, group: Sequence[Measurement]) -> Measurement:
    def mean(name: str) -> Any:
        values = [getattr(m, name) for m in group if getattr(m, name) is not None]
        return statistics.fmean(values) if values else None

    interval = None
    if all(m.speed_up for m in group):
        interval = geometric_mean([m.speed_up or 0.0 for m in group])
    retrieved = mean("retrieved_tokens")
    loads = [m.other_load for m in group if m.other_load is not None]
    return dataclasses.replace(
        group[0],
        cell=cell,
        tokens_per_second=statistics.geometric_mean(m.tokens_per_second for m in group),
        tokens_per_step=statistics.harmonic_mean([m.tokens_per_step for m in group]),
        speed_up=interval.value if interval is not None else None,
        interval=interval,
        bytes_per_step=round(mean("bytes_per_step")),
        context_tokens=round(mean("context_tokens")),
        retrieved_tokens=None if retrieved is None else round(retrieved),
        other_load=max(loads, default=None),
        **{name: mean(name) for name in _MEANS},
    )


def _measurement(
    cell: Cell,
    contestant: Contestant,
    samples: list[Sample],
    speed: float,
    baseline: float | None,
    bytes_per_second: float,
    other_load: float | None,
) -> Measurement:
    step_seconds = statistics.median(sample.decode_seconds / max(sample.steps) for sample in samples)
    tokens, steps = (sum(sum(map(len, s.tokens)) for s in samples), sum(sum(s.steps) for s in samples))
    forwards = sum(sum(s.drafter_forwards) for s in samples) / steps
    bytes_per_step = contestant.bytes_per_step(forwards)
    return Measurement(
        cell=cell,
        method=contestant.name,
        tokens_per_second=speed,
        tokens_per_step=tokens / steps,
        step_seconds=step_seconds,
        prefill_seconds=statistics.median(sample.prefill_seconds for sample in samples),
        drafter_forwards=forwards,
        bytes_per_step=bytes_per_step,
        bandwidth_share=bytes_per_step / step_seconds / bytes_per_second,
        speed_up=speed / baseline if baseline else None,
        kept_over_tested=_ratio(samples, "tested"),
        kept_over_proposed=_ratio(samples, "proposed"),
        forced_acceptance=contestant.forced_acceptance,
        context_tokens=contestant.context_tokens,
        retrieved_tokens=contestant.retrieved_tokens,
        other_load=other_load,
    )


def _tokens_per_second(sample: Sample) -> float:
    return sum(map(len, sample.tokens)) / sample.decode_seconds


def _ratio(samples: list[Sample], over: str) -> float | None:
    whole = sum(getattr(sample, over) or 0 for sample in samples)
    return sum(sample.accepted or 0 for sample in samples) / whole if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
