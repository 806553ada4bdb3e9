"""What a step is made of: the part that a program is compiled for, and the part that it takes as arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from models.decoder import Decoder
from rapid_jax.config.speculation import AcceptanceRule
from rapid_jax.decoding.drafter import Drafter
from rapid_jax.decoding.sampling import Warping
from rapid_jax.verification import verify_chain

_STOP_IDS = 8  # slots for stop ids at least, so that a few more compile nothing


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The static part of a step: a program is compiled for each.

    Attributes:
      target: the long-context model.
      drafter: who proposes; NullDrafter for plain decoding.
      rule: how drafts are accepted (see verification); several first candidates take residual "exact" alone.
      verify: who accepts; hashable, with the contract of `verification.verify_chain`.
      apart: the mesh of the drafter's arrays where they are on devices of their own, see decoding.apart; else None.
    """

    target: Decoder
    drafter: Drafter
    rule: AcceptanceRule = AcceptanceRule()
    verify: Callable[..., tuple[jax.Array, jax.Array]] = verify_chain
    apart: Mesh | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controls:
    """The arguments of a step that are settings: another value compiles nothing anew.

    Attributes:
      eta: float32 scalar, transfer strength.
      warping: of target and drafter alike; whether it is greedy is static.
      stop_ids: int32 [K], token ids that end a row; -1 fills free slots.
    """

    eta: jax.Array
    warping: Warping
    stop_ids: jax.Array

    @classmethod
    def of(cls, *, eta: float = 0.0, warping: Warping | None = None, stop_ids: Sequence[int] = ()) -> Controls:
        """The controls of these settings as host arrays; no warping is greedy decoding."""
        slots = max(_STOP_IDS, 1 << max(len(stop_ids) - 1, 0).bit_length())
        ids = np.full(slots, -1, np.int32)
        ids[: len(stop_ids)] = sorted(stop_ids)
        return cls(np.float32(eta), warping or Warping.of(0.0), ids)  # type: ignore[arg-type]
