"""Compiles what questions will need before anything is read, several programs at a time.

A question is planned and started as it will be, over contexts that are empty, up to its first decoding step. So no list
of programs has to be kept beside the code that asks for them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

from models import hosts
from models.language_model import LanguageModel
from rapid_jax.config import Method
from rapid_jax.engine.batch import plan_batch, start_batch
from rapid_jax.engine.contexts import PrefilledContext, blank_context, prefill
from rapid_jax.engine.document import Document
from rapid_jax.engine.request import Request, check_request
from rapid_jax.engine.session import Session


class _Rehearsal(Session):
    """A session with the same models and programs, whose contexts stay empty."""

    def prefill(self, model: LanguageModel, rows: Sequence[Sequence[int]], progress=None) -> PrefilledContext:
        return prefill(self.programs, model, rows, self.config, blank=True)


def rehearse(session: Session, document: Document, question: str, methods: Sequence[Method]) -> None:
    """Compiles all that answering a question with these methods will run.

    Programs of several devices wait for one another and must start in one order everywhere: on several devices they are
    compiled one after another, and on several hosts nothing is done.

    Args:
      session, document: the document need not have been read.
      question, methods: see `Engine.compile`.

    Raises:
      ValueError, FileNotFoundError: as asking would.
    """
    if hosts.count() > 1:
        return
    session.require(methods)
    fresh = {f.name: getattr(session, f.name) for f in dataclasses.fields(Session)}
    fresh |= dict(passages={}, together={}, step_costs={}, acceptance_seen={})
    own = _Rehearsal(**{name: value for name, value in fresh.items() if name != "lock"})
    if any(method.retrieves for method in methods):
        vars(own)["retriever"] = session.retriever
        document.index  # noqa: B018  (made once, before threads ask for it)
    if any(method.looks_up for method in methods):
        vars(own)["databases"] = session.databases
    requests = [document.request([question], method.name) for method in methods]
    for request in requests:
        check_request(session, request)
    tasks: list[Callable[[], object]] = []
    rehearsed = document
    if any(method.reads_document for method in methods):
        rows = [document.token_ids]
        blank = document.prefilled if document.is_read else blank_context(own.programs, own.target, rows, own.config)
        rehearsed = document.rehearsed_in(own, blank)
        tasks += [] if document.is_read else [lambda: own.prefill(own.target, rows)]
    for method in sorted(methods, key=lambda method: not method.draws):  # drafting models take longest to compile
        request = rehearsed.request([question], method.name)
        if not (request.speculation.length_rule or request.speculation.choose_gamma):  # they measure, and then decide
            tasks.append(functools.partial(_first_step, own, request))
    alone = session.mesh is None and session.drafter_mesh is None
    with concurrent.futures.ThreadPoolExecutor((os.cpu_count() or 1) if alone else 1) as pool:
        done = [pool.submit(task) for task in tasks]
        try:
            for one in done:
                one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _first_step(session: Session, request: Request) -> None:
    """Everything up to a first decoding step, which is compiled and not run."""
    steps = start_batch(session, plan_batch(session, request)).decode(session, measure=False)
    next(steps)
    steps.close()
