"""Contestants take turns in a cell of the benchmark; medians of their runs are its measurements."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rapid_jax.benchmarking.bandwidth import Bandwidth
from rapid_jax.benchmarking.hardware import OtherLoad


@dataclasses.dataclass(frozen=True)
class Cell:
    """What all contestants of a comparison have in common.

    Attributes:
      context_length: tokens of the document that were asked for.
      batch: rows decoded together.
      gamma: tokens drafted in a step, by those that draft.
      new_tokens: tokens that every row decodes.
    """

    context_length: int
    batch: int
    gamma: int
    new_tokens: int


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

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; numbers are rounded to six digits."""
        values = {
            k: float(f"{v:.6g}") if isinstance(v, float) else v
            for k, v in vars(self).items()
            if k not in ("cell", "method", "kept_over_tested", "kept_over_proposed")
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
) -> list[Measurement]:
    """Runs every contestant once unmeasured, then lets them take turns.

    Args:
      cell: that they were made for.
      contestants: at least one.
      repeats: measured runs of each.
      bandwidth: of one device.
      devices: how many share the bytes of a step.
      tick: called after every run.
    """
    for contestant in contestants:
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
