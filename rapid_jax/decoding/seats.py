"""Continuous batching: rows over one context that requests enter and leave between two bursts.

A batch that only starts together keeps its slowest answer's pace: who comes later waits for all of it. Here B rows are
compiled once and called seats. A newcomer is a state of one row, made as for a question of its own; it is written into
a free seat, and the burst goes on with the others. A seat that nobody has is a row that is done: it is computed and
nothing of it is kept, as in any batch of rows that end at different times.

Every leaf of a state has its rows along its first axis, the random keys too, so that whoever sits down keeps the key,
the tail and the databases of a question asked alone. Scalars belong to all rows (`drafting.pages.PagesCache.due`): the
newcomer's replace them, so that what a beginning needs is done for all once more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache, TailCache
from rapid_jax.decoding.loop import Bursts
from rapid_jax.decoding.programs import Programs, shardings_of
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import BurstReport, DecodeState

Guest = TypeVar("Guest")


@dataclasses.dataclass(frozen=True)
class Room:
    """Sizes that whoever sits down later must fit: rows of one state share their buffers' capacities.

    Attributes:
      question_tokens: of a question and the start of its answer, at most.
      new_tokens: of an answer, at most.
    """

    question_tokens: int = 0
    new_tokens: int = 0

    def holds(self, question_tokens: int, new_tokens: int) -> bool:
        """Whether a question of so many tokens fits, with so many for its answer."""
        return question_tokens <= self.question_tokens and new_tokens <= self.new_tokens


def repeated(rows: int, tree: Any) -> Any:
    """Arrays [1,...] as [rows,...]; scalars stay as they are."""
    return jax.tree.map(lambda x: x if x.ndim == 0 else jnp.concatenate([x] * rows, axis=0), tree)


def seated(state: DecodeState, one: DecodeState, row: jax.Array) -> DecodeState:
    """The state with a state of one row in the place of row `row`, an int32 scalar."""

    def write(held: jax.Array, new: jax.Array) -> jax.Array:
        return new if new.ndim == 0 else jax.lax.dynamic_update_slice_in_dim(held, new, row, axis=0)

    return jax.tree.map(write, state, one)


@dataclasses.dataclass(frozen=True)
class Seen(Generic[Guest]):
    """What the host has read of a burst.

    Attributes:
      report: host arrays of all B rows.
      guests: who sat in which row during that burst, and still does.
    """

    report: BurstReport
    guests: Sequence[tuple[int, Guest]]

    def of_row(self, row: int) -> BurstReport:
        """The report of one row, [1,...]."""
        return jax.tree.map(lambda x: x[row : row + 1], self.report)


class Seats(Generic[Guest]):
    """B seats; make them with `Seats.around`. The host reads a burst while the next one runs, as in `loop.decode`.

    Args:
      programs: compile what enters and what runs.
      bursts: of B rows.
      state: of B rows, all of them done; it is used up.
      mesh: of the state.
    """

    def __init__(self, programs: Programs, bursts: Bursts, state: DecodeState, mesh: Mesh | None = None):
        self._programs, self._bursts, self._state = programs, bursts, state
        self._everywhere = None if mesh is None else NamedSharding(mesh, P())
        self._guests: list[Guest | None] = [None] * len(state.done)
        self._ended = np.zeros(len(self._guests), bool)
        self._in_flight: tuple[BurstReport, list[Guest | None]] | None = None

    @classmethod
    def around(
        cls,
        programs: Programs,
        spec: StepSpec,
        params: dict,
        context: ContextCache,
        drafter_model: Any,
        controls: Controls,
        one: DecodeState,
        *,
        rows: int,
        burst_steps: int,
        mesh: Mesh | None = None,
    ) -> Seats[Guest]:
        """Free seats of the sizes of a state of one row, which is left as it is.

        Args:
          programs, spec, params, context, drafter_model, controls, burst_steps, mesh: as `loop.decode`.
          one: before its first step; the settings of its method are those of all who will sit.
          rows: B.

        Raises:
          ValueError: a mesh whose data axis splits the rows, or a drafter on devices of its own.
        """
        if mesh is not None and mesh.shape["data"] > 1:
            raise ValueError(f"seats are rows of one shard, the mesh splits them over data={mesh.shape['data']}: use 1")
        if spec.apart is not None:
            raise ValueError("rows cannot join where the drafter has devices of its own: leave drafter_mesh empty")

        def repeat(tree: Any) -> Any:
            return programs.get(repeated, (rows,), (tree,), out_shardings=shardings_of(tree))(tree)

        # Parameters, contexts and databases are shared. A TailCache that a drafter only reads (MagicDec's first tokens)
        # is a copy for each row, equal in all of them because the context is.
        def of_rows(part: Any) -> bool:
            return isinstance(part, TailCache)

        model = jax.tree.map(lambda part: repeat(part) if of_rows(part) else part, drafter_model, is_leaf=of_rows)
        state = repeat(one)
        args = programs, spec, params, context, model, controls, state
        bursts = Bursts.prepared(*args, burst_steps=burst_steps, mesh=mesh)
        if bursts is None:
            raise ValueError("seats need programs that run")
        done = hosts.put(np.ones(rows, bool), state.done.sharding)
        return cls(programs, bursts, dataclasses.replace(state, done=done), mesh)

    @property
    def free(self) -> int:
        """Seats that nobody has."""
        return sum(guest is None for guest in self._guests)

    @property
    def guests(self) -> list[Guest]:
        """Who sits."""
        return [guest for guest in self._guests if guest is not None]

    @property
    def drafter_cache(self) -> Any:
        """What the drafter keeps of all rows, behind the burst in flight; the next burst uses it up."""
        return self._state.drafter_cache

    def enter(self, guest: Guest, one: DecodeState) -> int:
        """Gives a guest a free seat, from the next burst on.

        Args:
          guest: whatever the caller knows it by.
          one: its state, of one row; it is left as it is.

        Returns:
          The row.

        Raises:
          ValueError: no seat is free, or the state has other sizes than those of the seats.
        """
        if None not in self._guests:
            raise ValueError(f"all {len(self._guests)} seats are taken: wait until one is free")
        check_fits(self._state, one)
        row = self._guests.index(None)
        args = (self._state, one, hosts.put(np.int32(row), self._everywhere))
        run = self._programs.get(seated, (), args, donate=(0,), out_shardings=shardings_of(self._state))
        self._state = run(*args)
        self._guests[row], self._ended[row] = guest, False
        return row

    def leave(self, guest: Guest) -> None:
        """Frees a guest's seat; where its answer has not ended, the next burst ends it."""
        row = next(row for row, other in enumerate(self._guests) if other is guest)
        self._guests[row], self._ended[row] = None, True

    def burst(self) -> Seen[Guest] | None:
        """Starts a burst and reads the one before it.

        Returns:
          What was read; None where there was none to read.
        """
        before, self._in_flight = self._in_flight, None
        if self.guests:
            self._state, report = self._bursts(self._state, self._ended)
            self._ended = np.zeros_like(self._ended)  # a row that has ended stays so until somebody sits down
            self._in_flight = report, list(self._guests)
        if before is None:
            return None
        report, guests = jax.device_get(before[0]), before[1]
        pairs = [(row, guest) for row, guest in enumerate(guests) if guest is not None]
        return Seen(report, [(row, guest) for row, guest in pairs if self._guests[row] is guest])


def check_fits(state: DecodeState, one: DecodeState) -> None:
    """Raises ValueError where a state of one row cannot be written into a state of several."""
    if jax.tree.structure(state) != jax.tree.structure(one):  # type: ignore[operator]
        raise ValueError("who sits down must be asked with the method and the settings of the seats")
    for held, new in zip(jax.tree.leaves(state), jax.tree.leaves(one), strict=True):
        if held.shape[1:] != new.shape[1:] or new.shape[:1] not in ((), (1,)) or held.dtype != new.dtype:
            raise ValueError(
                f"who sits down must have the sizes of the seats: {new.dtype}{list(new.shape)} does not fit a row of "
                f"{held.dtype}{list(held.shape)}"
            )
