"""What a decoding run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from models.cache import TailCache

TARGET, DRAFTER = 1, 2  # bits of DecodeState.not_finite

# Who wrote a token, in DecodeState.origins: the target where nothing was drafted, in the place of a drafted token that
# it refused, or behind a draft that it took whole; from DRAFTED on the drafter, by the index of its source.
ALONE, INSTEAD, BONUS, DRAFTED = range(4)
ORIGIN = ("step", "writer", "refused", "drafted")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Counters:
    """Per row, int32 [B] unless said otherwise: what the acceptance figures are made of.

    Attributes:
      steps: decoding steps in which the row was not done.
      proposed: drafted tokens.
      tested: drafted tokens that were tested (up to the first rejection; of candidates the longest path).
      accepted: drafted tokens that passed it.
      drafter_forwards: forwards of the drafting model.
      by_source: int32 [B,sources], accepted tokens by the drafter's sources.
    """

    steps: jax.Array
    proposed: jax.Array
    tested: jax.Array
    accepted: jax.Array
    drafter_forwards: jax.Array
    by_source: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class DecodeState:
    """State of B rows; donated to every burst.

    Attributes:
      newest: int32 [B,1], the newest committed token, which the target has not read yet.
      last_tokens: int32 [B,2], the two newest tokens that the drafter's own prompt and the answer make up.
      target_tail: the target's keys and values of all committed tokens behind the context but the last.
      drafter_cache: the drafter's own.
      output: int32 [B,M], generated tokens.
      origins: int32 [B,M,4], of each generated token, as ORIGIN names them: the row's step, who wrote it, the drafted
        token that was refused in its place (-1 for none), and the tokens that were drafted in that step.
      num_tokens: int32 [B], how many.
      budget: int32 [B], how many at most; no larger than M.
      done: bool [B].
      not_finite: int32 [B], TARGET and DRAFTER added up: whose numbers were not finite in a step of the row.
      keys: one random key a row [B]; never changes.
      counters: see there.
    """

    newest: jax.Array
    last_tokens: jax.Array
    target_tail: TailCache
    drafter_cache: Any
    output: jax.Array
    origins: jax.Array
    num_tokens: jax.Array
    budget: jax.Array
    done: jax.Array
    not_finite: jax.Array
    keys: jax.Array
    counters: Counters


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class BurstReport:
    """The small part of the state that the host reads after a burst, in buffers of its own."""

    output: jax.Array
    origins: jax.Array
    num_tokens: jax.Array
    done: jax.Array
    not_finite: jax.Array
    counters: Counters

    @classmethod
    def of(cls, state: DecodeState) -> BurstReport:
        """What the host reads of a state."""
        return cls(state.output, state.origins, state.num_tokens, state.done, state.not_finite, state.counters)


class NotFinite(ValueError):
    """A model computed NaN or infinity, so that nothing it says means anything.

    Attributes:
      model: "target" or "drafter".
    """

    def __init__(self, model: str, where: str = ""):
        self.model = model
        name = f"the {model} {where}".rstrip()
        super().__init__(
            f"{name} computes numbers that are not finite: a weight of it is NaN or infinite, or its values leave the "
            "range of its dtype; check the checkpoint, or load it with dtype float32"
        )


def check_finite(report: BurstReport) -> None:
    """Raises NotFinite where a row of a report on the host has met NaN or infinity."""
    found = int(np.bitwise_or.reduce(report.not_finite, initial=0))
    if found:
        raise NotFinite("target" if found & TARGET else "drafter")
