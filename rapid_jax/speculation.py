"""From which context length on a method is faster than plain decoding."""

from __future__ import annotations

import math
from collections.abc import Iterable


def crossing_point(speed_ups: Iterable[tuple[int, float]]) -> float | None:
    """The context length in tokens from which on the speed-up stays at least 1.

    Between two measured lengths the speed-up is taken as linear in the logarithm of the length.

    Args:
      speed_ups: (context length in tokens, speed-up), in any order.

    Returns:
      The length, or None where the speed-up is below 1 at the longest length or nowhere below it.
    """
    points = sorted(speed_ups)
    for (short, below), (long, above) in zip(points[-2::-1], points[:0:-1], strict=True):
        if above < 1:
            return None
        if below < 1:
            share = (1 - below) / (above - below)
            return math.exp(math.log(short) + share * math.log(long / short))
    return None


def describe_crossing(method: str, speed_ups: Iterable[tuple[int, float]]) -> str:
    """The crossing point, or that there is none, in a sentence."""
    points = sorted(speed_ups)
    crossing = crossing_point(points)
    if crossing is not None:
        return f"{method} overtakes lc at about {float(f'{crossing:.3g}'):,.0f} tokens of context."
    if len(points) == 1:
        verb = "faster" if points[0][1] >= 1 else "slower"
        return f"{method} is {verb} than lc at {points[0][0]:,} tokens of context."
    if points[-1][1] < 1:
        return f"{method} is slower than lc at {points[-1][0]:,} tokens of context, the longest measured."
    return f"{method} is at least as fast as lc at every length measured, from {points[0][0]:,} tokens of context on."
