"""One batch of questions: planned, started, decoded, and turned into text as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models import hosts
from rapid_jax.copying.drafter import CopiedBefore, CopyMemory
from rapid_jax.decoding.state import BurstReport, DecodeState, NotFinite
from rapid_jax.drafting.auto import AutoCache
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.batch import Batch, Started, plan_batch, start_batch
from rapid_jax.engine.request import Request, check_request
from rapid_jax.engine.results import Clock, make_answers
from rapid_jax.engine.session import Session
from rapid_jax.engine.text import TextRow
from rapid_jax.hierarchy.row_databases import LearnedNgrams, RowDatabases

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document


def named(session: Session, error: NotFinite) -> NotFinite:
    """The same error with the path of the model that computed what is not finite."""
    model = session.target if error.model == "target" else session.drafter
    return NotFinite(error.model, f"({model.path})")


def leave_copies(
    session: Session,
    batch: Batch,
    document: Document,
    answers: Sequence[Sequence[int]],
    learned: Any,
    rows: Sequence[int],
    *,
    began: CopiedBefore,
) -> None:
    """Leaves with a document what was said about it, to be copied by later answers.

    Args:
      session, batch: that have answered.
      document: that the answers are about.
      answers: their tokens.
      learned: the drafter's cache behind its last step.
      rows: of that cache, one for each answer.
      began: what these rows began with.
    """
    copied = learned.copy if isinstance(learned, AutoCache) else learned
    memory, kept = copied if isinstance(copied, CopyMemory) else None, batch.copying.earlier_answers
    with session.lock:
        document.copied_before = document.copied_before.after(answers, memory, kept, began=began, rows=rows)


class Run:
    """Answers a request: iterate over `texts` to its end, then take `answers`.

    Raises:
      ValueError, FileNotFoundError: as `request.check_request`.
    """

    def __init__(self, session: Session, request: Request):
        check_request(session, request)
        self._session, self._request = session, request
        tokenizer, stop = session.target.tokenizer, request.sampling.stop
        self._rows = [TextRow(tokenizer, stop) for _ in request.questions]
        self._compiled_before = session.programs.compile_seconds
        self._decoded: tuple[Batch, Started, BurstReport, Clock] | None = None
        self._ending: set[int] = set()
        self._answers: list[Answer] | None = None

    def stop(self, row: int | None = None) -> None:
        """Ends a row, or all of them, at the next burst, with what they have by then."""
        self._ending |= set(range(len(self._rows))) if row is None else {row}

    def texts(self) -> Iterator[list[str]]:
        """Decodes; yields, after every burst, each row's new text.

        Raises:
          ValueError: no room left in a model's context, or numbers that are not finite.
        """
        session = self._session
        batch = plan_batch(session, self._request)
        if batch.decision is not None:
            batch.decision.warn(batch.method.name, max(batch.target.context.lengths))
        started = start_batch(session, batch)
        bursts = started.decode(session)
        next(bursts)
        begun, first = time.perf_counter(), None
        taken = [0] * len(self._rows)
        stopped = None
        while True:
            try:
                report = bursts.send(stopped)
            except StopIteration as end:
                self._remember(batch, end.value)
                return
            except NotFinite as error:
                raise named(session, error) from None
            seconds = time.perf_counter() - begun
            first = seconds if first is None else first
            self._decoded = batch, started, report, Clock(self._compiled_before, first, seconds)
            pieces, ending = [], frozenset(self._ending)
            for index, row in enumerate(self._rows):
                tokens = report.output[index, taken[index] : report.num_tokens[index]].tolist()
                taken[index] += len(tokens)
                pieces.append(row.push(tokens, last=bool(report.done[index]) or index in ending))
                if index in ending and not report.done[index]:
                    row.interrupt()
            if self._request.sampling.stop or ending:
                stopped = np.zeros(len(report.done), bool)
                stopped[: len(self._rows)] = [row.stopped for row in self._rows]
            yield pieces

    def answers(self) -> list[Answer]:
        """The answers, one a question.

        Raises:
          RuntimeError: `texts` has not been read to its end.
        """
        if self._answers is not None:
            return self._answers
        if self._decoded is not None:
            batch, started, report, clock = self._decoded
            if all(row.stopped or report.done[index] for index, row in enumerate(self._rows)):
                given = self._session, self._request, batch, started, report, self._rows, clock
                self._answers = make_answers(*given)  # once: the session learns from it
                return self._answers
        raise RuntimeError("the answer is not there before its stream has been read to the end")

    def _remember(self, batch: Batch, state: DecodeState) -> None:
        """Leaves with documents what was said about them, and with a conversation what its databases have learned."""
        documents, learned = self._request.documents, state.drafter_cache
        for document in dict.fromkeys(document.root for document in documents):
            rows = [row for row, about in enumerate(documents) if about.root is document]
            said = [self._rows[row].token_ids for row in rows]
            leave_copies(self._session, batch, document, said, learned, rows, began=batch.copied_before[rows[0]])
        if batch.kept is not None:
            output, count = hosts.fetch((state.output, state.num_tokens))
            generated = output[0, : count[0]].tolist()
            batch.kept.take([*batch.target.questions[0], *generated][:-1], state.target_tail)
        if isinstance(learned, RowDatabases) and documents[0].is_conversation and len(self._rows) == 1:
            documents[0].remembered = LearnedNgrams(learned, (*batch.target.prompts[0], *self._rows[0].token_ids))
