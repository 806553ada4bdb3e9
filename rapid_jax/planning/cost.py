"""What a forward costs in seconds, and what speculation gains from it: the length rule and the choice of gamma.

Roofline: a forward takes as long as the slower of its memory traffic and its arithmetic, plus its collectives. With
c_T seconds for plain decoding's step, c_D for a forward of the drafter, c_V(g) for verifying g drafted tokens and
acceptance a of each of them, a step emits E = (1 - a^(g+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192,
Eq. 1) and is E * c_T / (g * c_D + c_V(g)) times as fast as plain decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from rapid_jax.planning.hlo import Collective
from rapid_jax.speculation import crossing_point

GAMMAS = range(1, 17)


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast a device is.

    Attributes:
      bytes_per_second: of its memory.
      flops_per_second: of its arithmetic.
      link_bytes_per_second: of one link to a neighbour in one direction; 0 where there is one device.
      hop_seconds: the time to a neighbour.
    """

    bytes_per_second: float
    flops_per_second: float
    link_bytes_per_second: float = 0.0
    hop_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in a forward, a chunk or a step.

    Attributes:
      bytes: moved from and to its memory.
      flops: operations.
      wire_bytes: sent in one direction of a ring of devices.
      hops: between neighbours, one after another.
    """

    bytes: float
    flops: float
    wire_bytes: float = 0.0
    hops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return self.plus(other, 1.0)

    def __sub__(self, other: Work) -> Work:
        return self.plus(other, -1.0)

    def plus(self, other: Work, times: float) -> Work:
        """This and so many times the other."""
        return Work(*(a + times * b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def at_least(self, other: Work) -> Work:
        """The larger in every respect."""
        return Work(*map(max, self._fields(), other._fields()))

    def seconds(self, rates: Rates) -> float:
        """By the roofline."""
        device = max(self.bytes / rates.bytes_per_second, self.flops / rates.flops_per_second)
        wire = self.wire_bytes / rates.link_bytes_per_second if self.wire_bytes else 0.0
        return device + wire + self.hops * rates.hop_seconds

    def _fields(self) -> tuple[float, ...]:
        return self.bytes, self.flops, self.wire_bytes, self.hops


def on_the_wire(collectives: Iterable[Collective]) -> tuple[float, float]:
    """Bytes in one direction and hops of collectives that run around a ring of n devices, both ways at once.

    Of a result of B bytes an all-gather sends (n-1)/n B, an all-reduce twice that, half of it in each direction; a
    message travels n/2 hops at most ("How to Scale Your Model", https://jax-ml.github.io/scaling-book/sharding).
    """
    total = hops = 0.0
    for one in collectives:
        if one.group < 2:
            continue
        if one.kind == "collective-permute":
            total += one.times * one.bytes
            hops += one.times
            continue
        whole = one.bytes * (one.group if one.kind == "reduce-scatter" else 1)
        phases = 2 if one.kind == "all-reduce" else 1
        total += one.times * phases * whole * (one.group - 1) / one.group / 2
        hops += one.times * phases * (one.group // 2)
    return total, hops


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """The costs that speculation is decided by, measured or predicted; all in seconds.

    Attributes:
      plain: a step of plain decoding, c_T.
      draft: the drafter's work for one token, c_D.
      row: what each drafted token adds to the target's forward, so that c_V(g) = plain + g * row.
    """

    plain: float
    draft: float
    row: float = 0.0

    def step(self, gamma: int) -> float:
        """A speculative step of gamma drafted tokens."""
        return gamma * self.draft + self.plain + gamma * self.row


def tokens_per_step(acceptance: float, gamma: int) -> float:
    """E, the tokens that a step emits, where each drafted token is accepted with this probability.

    Raises:
      ValueError: no probability, or a negative gamma.
    """
    if not 0 <= acceptance <= 1 or gamma < 0:
        raise ValueError(
            f"acceptance must be in [0, 1] and gamma at least 0, got acceptance {acceptance} and gamma {gamma}"
        )
    return float(sum(acceptance**i for i in range(gamma + 1)))


def speed_up(costs: StepSeconds, acceptance: float, gamma: int) -> float:
    """Tokens a second over those of plain decoding."""
    return tokens_per_step(acceptance, gamma) * costs.plain / costs.step(gamma)


def choose_gamma(costs: StepSeconds, acceptance: float, gammas: Iterable[int] = GAMMAS) -> int:
    """The draft length that is fastest; of equal ones the shortest."""
    return max(gammas, key=lambda gamma: (speed_up(costs, acceptance, gamma), -gamma))


def speculation_pays(costs: StepSeconds, acceptance: float, gamma: int) -> bool:
    """The length rule: whether drafts of this length decode faster than no drafts."""
    return speed_up(costs, acceptance, gamma) > 1.0


def crossing_length(
    costs: Callable[[int], StepSeconds], acceptance: float, gamma: int, lengths: Iterable[int]
) -> float | None:
    """The context length in tokens from which on speculation wins; see benchmarking.crossing.crossing_point.

    Args:
      costs: of a context length.
      acceptance, gamma: see there.
      lengths: at which the costs are looked at; between them the speed-up is interpolated.
    """
    return crossing_point((length, speed_up(costs(length), acceptance, gamma)) for length in lengths)
