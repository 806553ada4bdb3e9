"""All cells of a benchmark, one after the other; no more contexts are held than one length needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from models.progress import ProgressCallback
from rapid_jax.benchmarking.bandwidth import Bandwidth
from rapid_jax.benchmarking.contestant import MethodContestant
from rapid_jax.benchmarking.measurement import Cell, Contestant, Measurement, measure
from rapid_jax.benchmarking.peers import PeerEngine
from rapid_jax.benchmarking.prompts import BenchmarkPrompts
from rapid_jax.config.methods import Method
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.session import Session


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is measured.

    Attributes:
      methods: take turns in every cell.
      context_lengths, batch_sizes, gammas: a cell for each combination.
      new_tokens: decoded by every row of a run.
      repeats: measured runs of each method in a cell.
      acceptance: forced rate, or None for the models' own.
      prompts: that are asked at each context length.
    """

    methods: Sequence[Method]
    context_lengths: Sequence[int]
    batch_sizes: Sequence[int]
    gammas: Sequence[int]
    new_tokens: int
    repeats: int
    acceptance: float | None = None
    prompts: int = 1

    @property
    def draft_lengths(self) -> Sequence[int]:
        """The gammas, of which one is enough where no method drafts."""
        return self.gammas if any(method.draws for method in self.methods) else self.gammas[:1]

    def runs(self, peers: Sequence[PeerEngine] = ()) -> int:
        """How often something is run, unmeasured first runs included."""
        shared = len(self.context_lengths) * len(self.draft_lengths) * (self.prompts * self.repeats + 1)
        others = sum(len(peer.names(batch)) for peer in peers for batch in self.batch_sizes)
        return shared * (len(self.methods) * len(self.batch_sizes) + others)


def run_sweep(
    sweep: Sweep,
    engine: Engine,
    make_prompts: Callable[[Engine, int, int], Iterable[BenchmarkPrompts]],
    bandwidth: Bandwidth,
    *,
    peers: Sequence[PeerEngine] = (),
    prefill_progress: ProgressCallback | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[list[Measurement]]:
    """Measures cell by cell.

    Args:
      sweep: what.
      engine: with a `benchmark_config`.
      make_prompts: (engine, context tokens, rows) -> prompts; those with one document follow each other.
      bandwidth: of one device.
      peers: other engines to run beside ours.
      prefill_progress: called with (tokens read, tokens in all) while a document is read.
      tick: called after every run.

    Yields:
      The measurements of each cell, methods in the order of the sweep, then the peers'.
    """
    for length in sweep.context_lengths:
        reader = _Reader(sweep, engine.session, peers, prefill_progress)
        numbers: dict[str, int] = {}
        for index, prompts in enumerate(make_prompts(engine, length, max(sweep.batch_sizes))):
            number = numbers[prompts.kind] = numbers.get(prompts.kind, -1) + 1
            reader.read(prompts.document)
            for batch in sweep.batch_sizes:
                rows = prompts.rows(batch)
                passages = _prefill_passages(sweep.methods, engine.session, rows)
                for gamma in sweep.draft_lengths:
                    cell = Cell(length, batch, gamma, sweep.new_tokens, prompts.kind, number)
                    contestants = reader.contestants(cell, rows, passages)
                    devices = 1 if engine.session.mesh is None else engine.session.mesh.size
                    yield measure(cell, contestants, sweep.repeats, bandwidth, devices, tick, warm=index > 0)


class _Reader:
    """Holds one document at a time, as we and the peers have read it."""

    def __init__(self, sweep: Sweep, session: Session, peers: Sequence[PeerEngine], progress: ProgressCallback | None):
        self._sweep, self._session, self._peers, self._progress = sweep, session, peers, progress
        self._tokens: list[int] | None = None
        self._ours: PrefilledContext | None = None
        self._theirs: list[Any] = []

    def read(self, document: list[int]) -> None:
        """Reads a document unless it is the one that is held; the memory of the last one is free before."""
        if document is self._tokens:
            return
        session, self._tokens, self._ours, self._theirs = self._session, document, None, []
        if any(method.reads_document for method in self._sweep.methods):
            self._ours = session.prefill(session.target, [document], self._progress)
        self._theirs = [peer.read(document, session.config.prefill_chunk) for peer in self._peers]

    def contestants(
        self, cell: Cell, rows: BenchmarkPrompts, passages: dict[int, PrefilledContext]
    ) -> list[Contestant]:
        """The methods in the order of the sweep, then the peers' rows."""
        sweep, session = self._sweep, self._session
        contestants: list[Contestant] = []
        for method in sweep.methods:
            context = self._ours if method.reads_document else passages[id(session.target)]
            assert context is not None
            drafter_context = passages[id(session.drafter)] if method.drafts_from_passages else None
            contestants.append(
                MethodContestant(session, method, cell, rows, context, drafter_context, sweep.acceptance)
            )
        for peer, held in zip(self._peers, self._theirs, strict=True):
            contestants += peer.contestants(held, session.target, rows.target.questions, sweep.new_tokens)
        return contestants


def _prefill_passages(
    methods: Sequence[Method], session: Session, rows: BenchmarkPrompts
) -> dict[int, PrefilledContext]:
    """What each model that reads passages has read, by the model's id; read once in self-speculation."""
    wanted: list[tuple[Any, list[list[int]]]] = []
    if any(not method.reads_document for method in methods):
        wanted.append((session.target, rows.target.passages))
    if any(method.drafts_from_passages for method in methods):
        wanted.append((session.drafter, rows.drafter.passages))
    read: dict[int, PrefilledContext] = {}
    for model, passages in wanted:
        if id(model) not in read:
            read[id(model)] = session.prefill(model, passages)
    return read
