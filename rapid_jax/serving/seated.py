"""A batch about one document that requests join and leave while others are decoded."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, cast

from rapid_jax.decoding.seats import Seats, Seen
from rapid_jax.decoding.state import NotFinite, check_finite
from rapid_jax.engine.batch import Batch, Started, controls_of, plan_batch, start_batch
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.request import Request
from rapid_jax.engine.results import Clock, make_answers
from rapid_jax.engine.run import leave_copies, named
from rapid_jax.engine.text import TextRow
from rapid_jax.hierarchy.setup import check_bytes
from rapid_jax.serving.errors import ApiError, as_api_error
from rapid_jax.serving.jobs import Answered, Job
from rapid_jax.serving.library import Library
from rapid_jax.serving.plan import Plan


@dataclasses.dataclass(eq=False)
class Guest:
    """A job in a seat.

    Attributes:
      job: see there.
      request, batch, started: of one row, as for a question of its own; its arrays are in the seats.
      row: its text so far.
      cached_tokens: of its prompt, that had been read before it came.
      compiled_before: seconds that the engine had spent in compiling before it came.
      begun: when it sat down, of the performance counter.
      taken: tokens that have been turned into text.
      first: seconds until the first tokens were there.
    """

    job: Job
    request: Request
    batch: Batch
    started: Started
    row: TextRow
    cached_tokens: int
    compiled_before: float
    begun: float
    taken: int = 0
    first: float | None = None


class SeatedGroup:
    """Seats around a document, for requests with one method and equal settings.

    Args:
      engine: decodes.
      library: reads the document.
      plan: of the first request; it sits down with `join`.
      seats: rows.

    Raises:
      ValueError: databases of so many rows do not fit the devices.
    """

    def __init__(self, engine: Engine, library: Library, plan: Plan, seats: int):
        assert plan.held is not None
        self.key, self.held, self.room = plan.key, plan.held, plan.room
        self._engine, self._library, self._rows = engine, library, seats
        self._seats: Seats[Guest] | None = None
        self.held.pins += 1

    @property
    def jobs(self) -> list[Job]:
        """Those in seats."""
        return [] if self._seats is None else [guest.job for guest in self._seats.guests]

    @property
    def free(self) -> int:
        """Seats that nobody has."""
        return self._rows if self._seats is None else self._seats.free

    def join(self, plan: Plan) -> None:
        """Reads a request's question and gives it a seat.

        Raises:
          ValueError, FileNotFoundError: as `engine.batch.start_batch`.
        """
        session = self._engine.session
        compiled = session.programs.compile_seconds
        cached = self._library.read(self.held)
        request = plan.request()
        batch = dataclasses.replace(plan_batch(session, _as_asked(request)), room=self.room)
        started = start_batch(session, batch)
        if self._seats is None:
            self._seats = self._around(batch, started)
        row = TextRow(session.target.tokenizer, request.sampling.stop)
        guest = Guest(plan.job, request, batch, _without_arrays(started), row, cached, compiled, time.perf_counter())
        self._seats.enter(guest, started.state)

    def step(self) -> None:
        """Runs a burst and tells the guests what came of the one before."""
        seen = None if self._seats is None else self._seats.burst()
        if seen is None:
            return
        for row, guest in seen.guests:
            try:
                self._tell(guest, seen, row)
            except Exception as error:  # of one answer: the others go on
                known = named(self._engine.session, error) if isinstance(error, NotFinite) else error
                guest.job.fail(as_api_error(known))
                self._leave(guest)

    def drop(self, job: Job, error: ApiError) -> None:
        """Ends a job's answer before its end and frees its seat."""
        assert self._seats is not None
        job.fail(error)
        self._leave(next(guest for guest in self._seats.guests if guest.job is job))

    def close(self) -> None:
        """Lets go of the document."""
        self._seats = None
        self.held.pins -= 1

    def _around(self, batch: Batch, started: Started) -> Seats[Guest]:
        """Free seats of the sizes of a first request."""
        session = self._engine.session
        per_row = started.drafting.database_bytes.get("context", 0)
        check_bytes("context", self._rows * per_row, session.config.hierarchy.device_bytes)
        stop_ids = sorted(session.target.tokenizer.stop_ids)  # a request's own stop strings are the host's affair
        return Seats.around(
            session.programs,
            started.spec,
            started.params,
            started.context,
            started.drafting.model,
            controls_of(batch.method, batch.speculation, batch.sampling, stop_ids),
            started.state,
            rows=self._rows,
            burst_steps=session.config.burst_steps,
            mesh=session.mesh,
        )

    def _tell(self, guest: Guest, seen: Seen[Guest], row: int) -> None:
        report = seen.of_row(row)
        check_finite(report)
        seconds = time.perf_counter() - guest.begun
        guest.first = seconds if guest.first is None else guest.first
        count, done = int(report.num_tokens[0]), bool(report.done[0])
        text = guest.row.push(report.output[0, guest.taken : count].tolist(), last=done)
        guest.taken = count
        guest.job.piece(text)
        if not done and not guest.row.stopped:
            return
        clock = Clock(guest.compiled_before, guest.first, seconds)
        session = self._engine.session
        args = (session, guest.request, guest.batch, guest.started, report, [guest.row], clock)
        (answer,) = make_answers(*args)
        self._remember(guest, row)
        self._leave(guest)
        guest.job.end(Answered(answer, self.held.id, guest.cached_tokens))

    def _remember(self, guest: Guest, row: int) -> None:
        """Leaves with the document what was said about it, for those who come later."""
        assert self._seats is not None
        args = (self._engine.session, guest.batch, self.held.document, [guest.row.token_ids], self._seats.drafter_cache)
        leave_copies(*args, [row], began=guest.batch.copied_before[0])

    def _leave(self, guest: Guest) -> None:
        assert self._seats is not None
        if guest in self._seats.guests:
            self._seats.leave(guest)


def _as_asked(request: Request) -> Request:
    """A request that always drafts as it asks to: those in seats share a step, whatever each one's length rule says."""
    speculation = dataclasses.replace(request.speculation, length_rule="none", choose_gamma=False)
    return dataclasses.replace(request, speculation=speculation)


def _without_arrays(started: Started) -> Started:
    """What answers are made of; the arrays of one row would lie in memory twice."""
    drafting: Any = dataclasses.replace(started.drafting, model=(), cache=())
    return dataclasses.replace(started, state=cast(Any, None), drafting=drafting)
