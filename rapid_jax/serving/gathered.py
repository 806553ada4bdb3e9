"""A batch of requests that start together: methods whose drafter reads a context a row, and texts of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rapid_jax.engine.engine import Engine
from rapid_jax.engine.request import Request
from rapid_jax.engine.run import Run
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.jobs import Answered, Job
from rapid_jax.serving.library import Library
from rapid_jax.serving.plan import Plan


class GatheredGroup:
    """One run of an engine over the questions of several requests; the last of them ends it.

    Args:
      engine: decodes.
      library: reads the document.
      plans: with equal keys, at least one.

    Raises:
      ValueError, FileNotFoundError: as `engine.run.Run`.
    """

    def __init__(self, engine: Engine, library: Library, plans: Sequence[Plan]):
        first = plans[0]
        self.key, self.held = first.key, first.held
        self.jobs = [plan.job for plan in plans]
        self._cached = 0 if self.held is None or not first.method.reads_document else library.read(self.held)
        self._run = Run(engine.session, _together([plan.request() for plan in plans]))
        self._texts: Iterator[list[str]] = self._run.texts()
        self._rows = list(self.jobs)
        if self.held is not None:
            self.held.pins += 1

    def step(self) -> None:
        """Runs a burst and tells its pieces; the first step reads and plans."""
        pieces = next(self._texts, None)
        if pieces is not None:
            for job, piece in zip(self._rows, pieces, strict=True):
                job.piece(piece)
            return
        document = "" if self.held is None else self.held.id
        for job, answer in zip(self._rows, self._run.answers(), strict=True):
            job.end(Answered(answer, document, self._cached))
        self.jobs = []

    def drop(self, job: Job, error: ApiError) -> None:
        """Ends a job's answer before its end; the batch goes on while anybody waits for it."""
        job.fail(error)
        self.jobs.remove(job)
        self._run.stop(self._rows.index(job))

    def close(self) -> None:
        """Lets go of the document and of what is left of the batch."""
        del self._texts, self._run
        if self.held is not None:
            self.held.pins -= 1


def _together(requests: Sequence[Request]) -> Request:
    """One request of several rows about one document, with the settings of the first."""
    first = requests[0]
    return dataclasses.replace(
        first,
        documents=[first.documents[0]] * len(requests),
        questions=[request.questions[0] for request in requests],
        queries=[request.queries[0] for request in requests],
    )
