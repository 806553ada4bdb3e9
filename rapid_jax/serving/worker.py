"""The thread that owns the engine: takes requests from the queue, gives them rows, and runs bursts in turn."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rapid_jax.engine.engine import Engine
from rapid_jax.saving.store import DocumentStore
from rapid_jax.serving.asked import Asked
from rapid_jax.serving.errors import ApiError, as_api_error
from rapid_jax.serving.gathered import GatheredGroup
from rapid_jax.serving.jobs import Job, Returned
from rapid_jax.serving.library import Library
from rapid_jax.serving.plan import Plan, plan
from rapid_jax.serving.seated import SeatedGroup
from rapid_jax.serving.settings import ServerSettings


class Group(Protocol):
    """Requests that are decoded together."""

    @property
    def jobs(self) -> list[Job]:
        """Those whose answers are under way."""
        ...

    def step(self) -> None:
        """Runs a burst and tells what came of it."""
        ...

    def drop(self, job: Job, error: ApiError) -> None:
        """Ends a job before its end."""
        ...

    def close(self) -> None:
        """Lets go of all that it holds."""
        ...


class _Abandoned(Exception):
    """Nobody waits any more for what is being read."""


class Worker:
    """Answers jobs one burst at a time; start it with `start`, end it with `stop`.

    Args:
      engine: nobody else may use it meanwhile.
      settings: see there.
      store: of documents on disk; None for none.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, store: DocumentStore | None = None):
        self.engine, self.settings = engine, settings
        self.library = Library(
            engine,
            memory_bytes=settings.memory_bytes,
            max_documents=settings.max_documents,
            store=store,
            progress=self._between_chunks,
        )
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._waiting: list[Plan | Job] = []
        self._groups: list[Group] = []
        self._reading: Job | None = None
        self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="rapid_jax worker", daemon=True)

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._arrived) + len(self._waiting)

    @property
    def decoding(self) -> int:
        """Requests whose answers are under way."""
        return sum(len(group.jobs) for group in tuple(self._groups))

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the server ends."""
        return self._draining

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Puts a job into the queue.

        Raises:
          ApiError: the queue is full, or the server ends.
        """
        with self._changed:
            if self._draining:
                raise _stopped()
            if self.waiting >= self.settings.queue:
                message = f"{self.settings.queue} requests are waiting already: ask again later"
                raise ApiError(429, message, code="queue_full")
            self._arrived.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more: its row is free behind the next burst."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    def drain(self, grace: float) -> bool:
        """Refuses new requests and those that wait, and lets answers under way come to their end.

        Args:
          grace: seconds that they get; what is left then is ended with an error.

        Returns:
          Whether all have come to their end.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            finished = self._changed.wait_for(self._is_idle, timeout=grace)
        self.stop()
        return finished

    def stop(self) -> None:
        """Ends the thread; answers under way end with an error."""
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.library.close()

    def _is_idle(self) -> bool:
        return not (self.waiting or self.decoding or self._reading) or not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stopping:
            with self._changed:
                while not (self._arrived or self._waiting or self.decoding or self._stopping):
                    self._changed.notify_all()  # of those who drain
                    self._changed.wait()
            try:
                self._take()
                self._sweep()
                self._admit()
                self._step_groups()
            except Exception as error:  # a fault of ours: the thread must outlive it
                self._end_all(as_api_error(error))
        self._end_all(_stopped())

    def _take(self) -> None:
        """Takes what has arrived, and finds out what it asks."""
        with self._changed:
            arrived, self._arrived = self._arrived, []
            self._waiting += arrived
        for index, entry in enumerate(self._waiting):
            if self._draining:
                _job(entry).fail(_stopped())
            elif isinstance(entry, Job) and isinstance(entry.work, Asked):
                try:
                    self._waiting[index] = plan(self.engine, self.library, entry, self.settings.document_tokens)
                except Exception as error:
                    entry.fail(as_api_error(error))
        self._waiting = [entry for entry in self._waiting if not _job(entry).over]

    def _sweep(self) -> None:
        """Ends those for whom nobody waits, or whose deadline is over."""
        for entry in self._waiting:
            error = _job(entry).lost()
            if error is not None:
                _job(entry).fail(error)
        self._waiting = [entry for entry in self._waiting if not _job(entry).over]
        for group in self._groups:
            for job in list(group.jobs):
                error = job.lost()
                if error is not None:
                    group.drop(job, error)

    def _admit(self) -> None:
        """Gives rows to those who wait, in the order of their arrival.

        A request joins the group of its key while there are seats. But one that waits for a group of its own must not
        wait for ever while others join: who has come much later than that one waits as well.
        """
        blocked = float("inf")  # arrival of the first that waits for a group of its own
        for entry in list(self._waiting):
            if entry not in self._waiting:
                continue  # it was swept while a document was read for another
            if isinstance(entry, Job):
                self._call(entry)
                continue
            seated = [group for group in self._groups if isinstance(group, SeatedGroup) and group.key == entry.key]
            fitting = [group for group in seated if group.room.holds(entry.question_tokens, entry.new_tokens)]
            if entry.job.arrived > blocked + self.settings.patience_seconds:
                continue
            if fitting:
                free = next((group for group in fitting if group.free), None)
                if free is not None:
                    self._begin([entry], functools.partial(free.join, entry))
            elif self._has_place():
                self._open(entry)
            else:
                blocked = min(blocked, entry.job.arrived)

    def _has_place(self) -> bool:
        """Whether another group may begin; those in which nobody is left end for it."""
        for group in [group for group in self._groups if not group.jobs]:
            self._close(group)
        return len(self._groups) < self.settings.groups

    def _open(self, entry: Plan) -> None:
        """Begins a group with a request, and with all that are gathered with it where nobody can join later."""
        if entry.joins:
            seated = SeatedGroup(self.engine, self.library, entry, self.settings.seats)
            self._groups.append(seated)
            self._begin([entry], functools.partial(seated.join, entry))
            return
        if time.monotonic() - entry.job.arrived < self.settings.gather_seconds:
            time.sleep(self.settings.gather_seconds)  # those that were sent together arrive together
            self._take()
        alike = [other for other in self._waiting if isinstance(other, Plan) and other.key == entry.key]
        most = min(len(alike), self.settings.seats)
        gathered = alike[: 1 << max(most.bit_length() - 1, 0)]  # a power of two: few sizes are compiled

        def begin() -> None:
            self._groups.append(GatheredGroup(self.engine, self.library, gathered))

        if gathered:
            self._begin(gathered, begin)

    def _begin(self, plans: list[Plan], begin: Callable[[], None]) -> None:
        """Begins answers; an error is theirs alone."""
        for entry in plans:
            self._waiting.remove(entry)
        try:
            with self._reads_for(plans[0].job):
                begin()
        except _Abandoned:  # by the first of them; the others begin anew
            for entry in plans:
                lost = entry.job.lost() or (_stopped() if self._stopping else None)
                if lost is None:
                    self._waiting.insert(0, entry)
                else:
                    entry.job.fail(lost)
        except Exception as error:
            told = as_api_error(error)
            for entry in plans:
                entry.job.fail(told)

    def _call(self, job: Job) -> None:
        """Calls a function for whoever waits for its result."""
        assert not isinstance(job.work, Asked)
        function = job.work
        self._waiting.remove(job)
        self._has_place()  # what nobody uses must not hold memory while a document is read
        try:
            with self._reads_for(job):
                job.end(Returned(function()))
        except _Abandoned:
            job.fail(job.lost() or _stopped())
        except Exception as error:
            job.fail(as_api_error(error))

    @contextlib.contextmanager
    def _reads_for(self, job: Job) -> Iterator[None]:
        """Inside, a document may be read, for as long as somebody waits for this job."""
        self._reading = job
        try:
            yield
        finally:
            self._reading = None

    def _step_groups(self) -> None:
        """A burst of every group that decodes."""
        for group in list(self._groups):
            try:
                if group.jobs:
                    group.step()
            except Exception as error:  # of all its rows: the other groups go on
                told = as_api_error(error)
                for job in list(group.jobs):
                    job.fail(told)
                self._close(group)
                continue
            if not group.jobs and isinstance(group, GatheredGroup):
                self._close(group)

    def _between_chunks(self, done: int, total: int) -> None:
        """Lets the others go on while a document is read, which may take minutes.

        Raises:
          _Abandoned: nobody waits for the document any more.
        """
        if self._reading is not None and (self._stopping or self._reading.lost() is not None):
            raise _Abandoned
        self._sweep()
        self._step_groups()

    def _close(self, group: Group) -> None:
        self._groups.remove(group)
        group.close()

    def _end_all(self, error: ApiError) -> None:
        """Ends all that is left with an error."""
        with self._changed:
            left = [*self._arrived, *self._waiting]
            self._arrived, self._waiting = [], []
        for entry in left:
            _job(entry).fail(error)
        for group in list(self._groups):
            for job in list(group.jobs):
                job.fail(error)
            self._close(group)
        with self._changed:
            self._changed.notify_all()


def _job(entry: Plan | Job) -> Job:
    return entry.job if isinstance(entry, Plan) else entry


def _stopped() -> ApiError:
    return ApiError(503, "the server is stopping: ask another one, or later", code="stopping")
