"""Compiles what questions will need before anything is read, several programs at a time.

A question is planned and started as it will be, but the programs that this asks for are compiled by other threads and
not run: the caches stay empty. So no list of programs has to be kept beside the code that asks for them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, cast

from rapid_jax.config import Method
from rapid_jax.decoding.programs import Program, Programs
from rapid_jax.decoding.step import burst
from rapid_jax.engine.batch import plan_batch, start_batch
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.document import Document
from rapid_jax.engine.request import check_request
from rapid_jax.engine.session import Session
from rapid_jax.engine.step_costs import as_read


class _Ahead(Programs):
    """Programs that other threads compile; what is made with them waits until it is called.

    Args:
      programs: where they are kept.
      pool: the threads.
    """

    runs: ClassVar[bool] = False

    def __init__(self, programs: Programs, pool: concurrent.futures.Executor):
        super().__init__()
        self._programs, self._pool = programs, pool
        self._asked: dict[Hashable, functools.partial[Program]] = {}
        self._begun: dict[Hashable, concurrent.futures.Future[Program]] = {}

    @property
    def running(self) -> Programs:
        return self._programs

    def get(self, function: Callable, static: tuple, args: tuple, *, donate: tuple = (), out_shardings: Any = None):
        key = self._programs.key(function, static, args, donate=donate)
        options = dict(donate=donate, out_shardings=out_shardings)
        self._asked.setdefault(key, functools.partial(self._programs.get, function, static, args, **options))
        return cast(Program, lambda *args: self._begin(key).result()(*args))

    def _begin(self, key: Hashable) -> concurrent.futures.Future[Program]:
        if key not in self._begun:
            self._begun[key] = self._pool.submit(self._asked[key])
        return self._begun[key]

    def finish(self) -> None:
        """Compiles all that was asked for, the steps first: they take longest."""
        for key in sorted(self._asked, key=lambda key: self._asked[key].args[0] is not burst):
            self._begin(key)
        for program in self._begun.values():
            program.result()


def rehearse(session: Session, document: Document, question: str, methods: Sequence[Method]) -> None:
    """Compiles all that answering a question with these methods will run.

    What the length rule measures is measured here, before other threads compile, and decides for the answers too, until
    one of them changes the record. Left to the answer are drafters on devices of their own.

    Args:
      session, document: the document need not have been read.
      question, methods: see `Engine.compile`.

    Raises:
      ValueError, FileNotFoundError: as asking would.
    """
    session.require(methods)
    for method in methods:
        check_request(session, document.request([question], method.name))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = _Ahead(session.programs, pool)
        own = _empty_handed(session, ahead)
        try:
            rehearsed = document
            if any(method.reads_document for method in methods):
                read = document.prefilled if document.is_read else _blank(own, document)
                rehearsed = document.rehearsed_in(own, read)
            for method in sorted(methods, key=lambda method: not method.draws):  # those that take longest first
                request = rehearsed.request([question], method.name)
                if not (method.drafts_from_passages and session.drafter_mesh is not None):
                    next(start_batch(own, plan_batch(own, request)).decode(own), None)
            ahead.finish()
        finally:
            pool.shutdown(cancel_futures=True)


def _blank(own: Session, document: Document) -> PrefilledContext:
    """A document that nobody has read, in a cache of zeros that is as full as if somebody had."""
    blank = own.prefill(own.target, [document.token_ids])
    return dataclasses.replace(blank, cache=as_read(blank.cache, blank.lengths))


def _empty_handed(session: Session, programs: Programs) -> Session:
    """A session with the same models, settings and databases and other programs, in which nothing has been read.

    What was measured and seen is the same.
    """
    fresh: dict[str, Any] = dict(programs=programs, passages={}, together={})
    own = dataclasses.replace(session, **fresh)
    vars(own).update({name: vars(session)[name] for name in ("retriever", "databases") if name in vars(session)})
    return own
