"""What a forward costs in seconds by the roofline.

A forward takes as long as the slower of its memory traffic and its arithmetic, plus its collectives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from rapid_jax.planning.hlo import Collective


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
