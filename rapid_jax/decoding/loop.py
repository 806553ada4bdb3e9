"""The host's side of decoding: it reads burst n while burst n + 1 runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache, TailCache
from rapid_jax.decoding.apart import decode_apart
from rapid_jax.decoding.pacing import paced, with_costs, with_room
from rapid_jax.decoding.programs import Program, Programs, copied, shardings_of
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import ORIGIN, BurstReport, Counters, DecodeState, check_finite
from rapid_jax.decoding.step import burst


def initial_state(
    last_tokens: np.ndarray,
    target_tail: TailCache,
    drafter_cache: Any,
    *,
    drafter_last_tokens: np.ndarray | None = None,
    budget: np.ndarray,
    capacity: int,
    seed: int,
    num_sources: int = 0,
    rows: np.ndarray | None = None,
    mesh: Mesh | None = None,
) -> DecodeState:
    """State before the first step.

    Args:
      last_tokens: int32 [B,2], the last two tokens of each prompt; the target's tail holds all before the last one.
      target_tail, drafter_cache: after prefill.
      drafter_last_tokens: int32 [B,2], the same of the drafter's own prompts, which may end otherwise; None where it
        reads the target's.
      budget: int32 [B], tokens to generate at most; 0 makes a row that only fills the batch.
      capacity: M, size of the output buffer.
      seed: of the random keys; row b's key folds in rows[b].
      num_sources: of the drafter's accepted tokens.
      rows: int [B], row numbers; None counts from 0.
    """
    batch = len(last_tokens)
    sharding = NamedSharding(mesh, P("data")) if mesh is not None else None
    rows = np.arange(batch) if rows is None else rows
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.asarray(rows))

    def put(array: Any) -> jax.Array:
        return hosts.put(array, sharding)

    def zeros() -> jax.Array:
        return put(np.zeros(batch, np.int32))

    return DecodeState(
        newest=put(last_tokens[:, 1:]),
        last_tokens=put(last_tokens if drafter_last_tokens is None else drafter_last_tokens),
        target_tail=target_tail,
        drafter_cache=drafter_cache,
        output=put(np.zeros((batch, capacity), np.int32)),
        origins=put(np.zeros((batch, capacity, len(ORIGIN)), np.int32)),
        num_tokens=zeros(),
        budget=put(budget.astype(np.int32)),
        done=put(budget == 0),
        not_finite=zeros(),
        keys=put(keys),
        counters=Counters(
            steps=zeros(),
            proposed=zeros(),
            tested=zeros(),
            accepted=zeros(),
            drafter_forwards=zeros(),
            by_source=put(np.zeros((batch, num_sources), np.int32)),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Bursts:
    """The compiled burst of a batch with all that it reads; a state goes in and another one comes out.

    Attributes:
      run: `step.burst`, compiled.
      read: the target's parameters and context, the drafter's model and the controls, on the devices.
      by_row: sharding of what has a number for each row.
    """

    run: Program
    read: tuple[Any, ...]
    by_row: jax.sharding.Sharding

    @classmethod
    def prepared(
        cls,
        programs: Programs,
        spec: StepSpec,
        params: dict,
        context: ContextCache,
        drafter_model: Any,
        controls: Controls,
        state: DecodeState,
        *,
        burst_steps: int,
        mesh: Mesh | None = None,
    ) -> Bursts | None:
        """Compiles the burst of such a state, which is left as it is, and runs what happens once; see `decode`.

        Returns:
          None where programs are compiled and not run.
        """
        replicated = NamedSharding(mesh, P()) if mesh is not None else None
        by_row, nobody = state.done.sharding, np.zeros(state.done.shape, bool)
        controls, stopped = hosts.put(controls, replicated), hosts.put(nobody, by_row)
        inputs = (params, context, drafter_model, controls, stopped, state)
        placed = shardings_of(state), replicated
        run = programs.get(burst, (spec, burst_steps), inputs, donate=(5,), out_shardings=placed)
        if not programs.runs:
            return None
        if not run.measured.get("warm", False):
            with programs.spending():
                _warm(run, inputs)
        if paced(drafter_model):
            with programs.spending():
                drafter_model = with_costs(run, inputs)
        return cls(run, (params, context, drafter_model, controls), by_row)

    def __call__(self, state: DecodeState, ended: np.ndarray) -> tuple[DecodeState, BurstReport]:
        """Starts a burst.

        Args:
          state: is used up.
          ended: bool [B], rows that the host has ended.
        """
        return self.run(*self.read, hosts.put(ended, self.by_row), state)


def decode(
    programs: Programs,
    spec: StepSpec,
    params: dict,
    context: ContextCache,
    drafter_model: Any,
    controls: Controls,
    state: DecodeState,
    *,
    burst_steps: int,
    mesh: Mesh | None = None,
) -> Generator[BurstReport, np.ndarray | None, DecodeState]:
    """Runs bursts until all rows are done; yields each burst's report as host arrays.

    The first value yielded is the report before any step: by then everything is compiled, and the clock may start.
    Sending a bool array [B] ends the rows that are True, from the burst after the one in flight on. The generator
    returns the last state. A drafter on devices of its own reports after every step.

    Raises:
      NotFinite: a model computed NaN or infinity.
    """
    args = programs, spec, params, context, drafter_model, controls, state
    if spec.apart is not None:
        return (yield from decode_apart(*args, mesh=mesh, drafter_mesh=spec.apart))
    bursts = Bursts.prepared(*args, burst_steps=burst_steps, mesh=mesh)
    if bursts is None:
        return state
    yield hosts.fetch(BurstReport.of(state))

    ended = np.zeros(state.done.shape, bool)
    state, report = bursts(state, ended)
    while True:
        state, following = bursts(state, ended)
        host = jax.device_get(report)
        check_finite(host)
        stop = yield host
        if stop is not None:
            ended = ended | stop
        if np.all(host.done | ended):
            return state
        report = following


def _warm(run: Program, args: tuple) -> None:
    """Runs a step of a new burst on a copy of the state, for what XLA sets up in a first execution.

    That is as long as a second where small matrix products have kernels of their own (on CPU), and counts as compiling.
    A room of one token ends every row in its first step: the steps behind it would set up nothing more.
    """
    jax.block_until_ready(run(*args[:-1], with_room(copied(args[-1]), 1)))
    run.measured["warm"] = True
