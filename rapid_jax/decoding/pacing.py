"""Costs of the paces of a drafter, measured with the compiled burst itself: nothing is compiled for it."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from models import hosts
from rapid_jax.decoding.drafter import Pace, paces
from rapid_jax.decoding.programs import Program, copied
from rapid_jax.decoding.spec import StepSpec
from rapid_jax.decoding.state import DecodeState

_TRIALS = 3


def with_costs(spec: StepSpec, run: Program, args: tuple) -> Pace:
    """The drafter's Pace with the costs of a step at each pace, over those at the first.

    Each pace runs steps on a copy of the state, whose rows have room for one token more; the best of three counts. A
    program is measured once.

    Args:
      spec: of a drafter with paces.
      run: the compiled burst.
      args: its arguments; they are left as they are.
    """
    params, context, pace, controls, stopped, state = args
    if "costs" not in run.measured:
        best = [np.inf] * len(paces(spec.drafter))
        for trial in range(_TRIALS + 1):  # the first one warms up
            for index in range(len(best)):
                pinned = hosts.put(np.asarray(index, np.int32), pace.pinned.sharding)
                own = with_room(copied(state), 1)
                asked = (params, context, Pace(pace.costs, pinned), controls, stopped, own)
                jax.block_until_ready(asked)
                start = time.perf_counter()
                jax.block_until_ready(run(*asked))
                seconds = time.perf_counter() - start
                best[index] = min(best[index], seconds) if trial else best[index]
        growing = np.maximum.accumulate(best)  # a longer draft that seems to cost less is the noise of a clock
        over_first = hosts.from_main(lambda: (growing / growing[0]).tolist())  # clocks differ, all must draft alike
        run.measured["costs"] = np.asarray(over_first, np.float32)
    return Pace(hosts.put(run.measured["costs"], pace.costs.sharding), pace.pinned)


def with_room(state: DecodeState, tokens: int) -> DecodeState:
    """The state whose rows end after so many tokens more."""
    room = jnp.minimum(state.budget, state.num_tokens + tokens)
    return dataclasses.replace(state, budget=jax.device_put(room, state.budget.sharding))


def without_costs(drafter_paces: int, sharding: jax.sharding.Sharding | None = None) -> Pace:
    """A Pace of so many paces before its costs are measured; it chooses none but the first."""
    costs = np.asarray([1.0, *[np.inf] * (drafter_paces - 1)], np.float32)
    return Pace(hosts.put(costs, sharding), hosts.put(np.asarray(-1, np.int32), sharding))
