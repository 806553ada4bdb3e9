"""The arithmetic of speculation: tokens per step, speed-up, the best draft length, and where drafts begin to pay.

With c_T seconds for plain decoding's step, c_D for a forward of the drafter, c_V(g) for verifying g drafted tokens and
acceptance a of each of them, a step emits E = (1 - a^(g+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192,
Eq. 1) and is E * c_T / (g * c_D + c_V(g)) times as fast as plain decoding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

GAMMAS = range(1, 17)
_EXPECTED = 8  # tested tokens that what is expected counts for


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """The costs that speculation is decided by, measured or predicted; all in seconds.

    Attributes:
      plain: a step of plain decoding, c_T.
      draft: the drafter's work for one token, c_D.
      row: what each drafted token adds to the target's forward, so that c_V(g) = plain + g * row.
      start: what a draft takes whatever its length.
      least: what drafting takes at least, where a forward of the drafter may give several tokens.
    """

    plain: float
    draft: float
    row: float = 0.0
    start: float = 0.0
    least: float = 0.0

    def step(self, gamma: int) -> float:
        """A speculative step of gamma drafted tokens."""
        drafts = max(gamma * self.draft, self.least) + self.start if gamma else 0.0
        return self.plain + gamma * self.row + drafts


@dataclasses.dataclass(frozen=True)
class AcceptanceRecord:
    """Drafted tokens that answers have tested and kept; with every answer, older ones count half.

    Attributes:
      accepted, tested: tokens, halved so.
    """

    accepted: float = 0.0
    tested: float = 0.0

    def after(self, accepted: int, tested: int) -> AcceptanceRecord:
        """With one answer more; one without drafts, too, makes older ones count half."""
        return AcceptanceRecord(self.accepted / 2 + accepted, self.tested / 2 + tested)

    def share(self, expected: float) -> float:
        """The share that was kept; what is expected counts as much as eight tokens.

        >>> [round(AcceptanceRecord(*seen).share(0.8), 2) for seen in ((0, 0), (40, 100))]
        [0.8, 0.43]
        """
        return (self.accepted + _EXPECTED * expected) / (self.tested + _EXPECTED)


def tokens_per_step(acceptance: float, gamma: int) -> float:
    """E, the tokens that a step emits, where each drafted token is accepted with this probability.

    >>> round(tokens_per_step(0.8, 10), 2)
    4.57

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
    """The draft length that is fastest; of equal ones the shortest.

    A drafter at a tenth of the target's cost should draft more where it is right more often:

    >>> costs = StepSeconds(plain=0.020, draft=0.002)
    >>> [choose_gamma(costs, acceptance) for acceptance in (0.5, 0.8, 0.95)]
    [2, 6, 15]
    """
    return max(gammas, key=lambda gamma: (speed_up(costs, acceptance, gamma), -gamma))


def speculation_pays(costs: StepSeconds, acceptance: float, gamma: int) -> bool:
    """The length rule: whether drafts of this length decode faster than no drafts."""
    return speed_up(costs, acceptance, gamma) > 1.0


def crossing_length(
    costs: Callable[[int], StepSeconds], acceptance: float, gamma: int, lengths: Iterable[int]
) -> float | None:
    """The context length in tokens from which on speculation wins; see `crossing_point`.

    Args:
      costs: of a context length.
      acceptance, gamma: see there.
      lengths: at which the costs are looked at; between them the speed-up is interpolated.
    """
    return crossing_point((length, speed_up(costs(length), acceptance, gamma)) for length in lengths)


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
    """The crossing point, or that there is none, in a sentence about at least two lengths."""
    points = sorted(speed_ups)
    crossing = crossing_point(points)
    if crossing is not None:
        return f"{method} overtakes lc at about {float(f'{crossing:.3g}'):,.0f} tokens of context."
    if points[-1][1] < 1:
        return f"{method} is slower than lc at {points[-1][0]:,} tokens of context, the longest measured."
    return f"{method} is at least as fast as lc at every length measured, from {points[0][0]:,} tokens of context on."
