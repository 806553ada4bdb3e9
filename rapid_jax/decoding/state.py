"""What a decoding run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from models.cache import TailCache


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
      last_tokens: int32 [B,2], the two newest committed tokens; the target has not read the last one yet.
      target_tail: the target's keys and values of all committed tokens behind the context but the last.
      drafter_cache: the drafter's own.
      output: int32 [B,M], generated tokens.
      num_tokens: int32 [B], how many.
      budget: int32 [B], how many at most; no larger than M.
      done: bool [B].
      keys: one random key a row [B]; never changes.
      counters: see there.
    """

    last_tokens: jax.Array
    target_tail: TailCache
    drafter_cache: Any
    output: jax.Array
    num_tokens: jax.Array
    budget: jax.Array
    done: jax.Array
    keys: jax.Array
    counters: Counters


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Report:
    """The small part of the state that the host reads after a burst, in buffers of its own."""

    output: jax.Array
    num_tokens: jax.Array
    done: jax.Array
    counters: Counters
