"""Costs of a drafter's ways to draft, measured with the compiled burst itself: nothing is compiled for it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import hosts
from rapid_jax.decoding.drafter import Pace
from rapid_jax.decoding.programs import Program, copied
from rapid_jax.decoding.state import DecodeState

_TRIALS = 3


def paced(model: Any) -> bool:
    """Whether what a drafter reads holds costs that are to be measured."""
    return any(isinstance(part, Pace) for part in _parts(model))


def with_costs(run: Program, args: tuple) -> Any:
    """What the drafter reads, its Pace with the costs of a step in each way, over those of the first.

    Each way runs a step on a copy of the state, whose rows have room for one token more; the best of three counts, less
    what a burst without a step takes. A program is measured once.

    Args:
      run: the compiled burst.
      args: its arguments; they are left as they are.
    """
    params, context, model, controls, stopped, state = args
    (pace,) = (part for part in _parts(model) if isinstance(part, Pace))

    def with_pace(costs: Any, pinned: jax.Array) -> Any:
        new = Pace(hosts.put(costs, pace.costs.sharding), pinned)
        return new if model is pace else tuple(new if part is pace else part for part in model)

    def seconds(way: int) -> float:
        """Of a burst of one step in this way, or of none where it is -1."""
        own = with_room(copied(state), 1)
        if way < 0:
            own = dataclasses.replace(own, done=hosts.put(np.ones(own.done.shape, bool), own.done.sharding))
        pinned = hosts.put(np.asarray(way, np.int32), pace.pinned.sharding)
        asked = (params, context, with_pace(pace.costs, pinned), controls, stopped, own)
        jax.block_until_ready(asked)
        start = time.perf_counter()
        jax.block_until_ready(run(*asked))
        return time.perf_counter() - start

    if "costs" not in run.measured:
        trials = [[seconds(way) for way in range(-1, len(pace.costs))] for _ in range(1 + _TRIALS)]
        burst, *steps = np.min(trials[1:], axis=0)  # the first one warms up
        burst = min(burst, steps[0] / 2)  # a clock is no better than that where steps are as short as a call
        over_first = np.maximum((np.array(steps) - burst) / (steps[0] - burst), 1)  # a draft saves no time: noise
        run.measured["costs"] = np.asarray(hosts.from_main(over_first.tolist), np.float32)  # all hosts draft alike
    return with_pace(run.measured["costs"], pace.pinned)


def _parts(model: Any) -> tuple:
    return model if isinstance(model, tuple) else (model,)


def with_room(state: DecodeState, tokens: int) -> DecodeState:
    """The state whose rows end after so many tokens more."""
    room = jnp.minimum(state.budget, state.num_tokens + tokens)
    return dataclasses.replace(state, budget=jax.device_put(room, state.budget.sharding))


def without_costs(ways: int, sharding: jax.sharding.Sharding | None = None) -> Pace:
    """A Pace of so many ways before their costs are measured; it chooses none but the first."""
    costs = np.asarray([1.0, *[np.inf] * (ways - 1)], np.float32)
    return Pace(hosts.put(costs, sharding), hosts.put(np.asarray(-1, np.int32), sharding))
