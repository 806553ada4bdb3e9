"""All cells of a benchmark, one after the other; no more contexts are held than one length needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rapid_jax.benchmarking.bandwidth import Bandwidth
from rapid_jax.benchmarking.contestant import MethodContestant
from rapid_jax.benchmarking.measurement import Cell, Contestant, Measurement, measure
from rapid_jax.benchmarking.peers import Peer, PeerDocument
from rapid_jax.benchmarking.workload import Workload
from rapid_jax.config.methods import Method
from rapid_jax.decoding.prefill import Progress
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.reading import ReadContext, read_context


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is measured.

    Attributes:
      methods: take turns in every cell.
      context_lengths, batch_sizes, gammas: a cell for each combination.
      new_tokens: decoded by every row of a run.
      repeats: measured runs of each method in a cell.
      acceptance: forced rate, or None for the models' own.
    """

    methods: Sequence[Method]
    context_lengths: Sequence[int]
    batch_sizes: Sequence[int]
    gammas: Sequence[int]
    new_tokens: int
    repeats: int
    acceptance: float | None = None

    @property
    def draft_lengths(self) -> Sequence[int]:
        """The gammas, of which one is enough where no method drafts."""
        return self.gammas if any(method.draws for method in self.methods) else self.gammas[:1]

    def runs(self, peer: Peer | None) -> int:
        """How often something is run, unmeasured first runs included."""
        shared = len(self.context_lengths) * len(self.draft_lengths) * (self.repeats + 1)
        peers = sum(len(peer.names(batch)) for batch in self.batch_sizes) if peer is not None else 0
        return shared * (len(self.methods) * len(self.batch_sizes) + peers)


def run_sweep(
    sweep: Sweep,
    engine: Engine,
    make_workload: Callable[[Engine, int, int], Workload],
    bandwidth: Bandwidth,
    *,
    peer: Peer | None = None,
    prefill_progress: Progress | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[list[Measurement]]:
    """Measures cell by cell.

    Args:
      sweep: what.
      engine: with a `benchmark_config`.
      make_workload: (engine, context tokens, rows) -> a workload.
      bandwidth: of one device.
      peer: another engine to run beside ours.
      prefill_progress: called with (tokens read, tokens in all) while a document is read.
      tick: called after every run.

    Yields:
      The measurements of each cell, methods in the order of the sweep, then the peer's.
    """
    for length in sweep.context_lengths:
        workload = make_workload(engine, length, max(sweep.batch_sizes))
        yield from _length(sweep, engine, length, workload, bandwidth, peer, prefill_progress, tick)


def _length(
    sweep: Sweep,
    engine: Engine,
    length: int,
    workload: Workload,
    bandwidth: Bandwidth,
    peer: Peer | None,
    progress: Progress | None,
    tick: Callable[[], None],
) -> Iterator[list[Measurement]]:
    """The cells of one context length; what they read goes when this ends."""
    document: ReadContext | None = None
    if any(method.reads_document for method in sweep.methods):
        document = read_context(engine, engine.target, [workload.document], progress)
    peer_document: PeerDocument | None = None
    if peer is not None:
        peer_document = peer.read(workload.document, engine.config.prefill_chunk)
    for batch in sweep.batch_sizes:
        rows = workload.rows(batch)
        passages = _read_passages(sweep.methods, engine, rows)
        for gamma in sweep.draft_lengths:
            cell = Cell(length, batch, gamma, sweep.new_tokens)
            contestants: list[Contestant] = []
            for method in sweep.methods:
                context = document if method.reads_document else passages[id(engine.target)]
                assert context is not None
                drafter_context = passages[id(engine.drafter)] if method.drafts else None
                contestants.append(
                    MethodContestant(engine, method, cell, rows, context, drafter_context, sweep.acceptance)
                )
            if peer is not None and peer_document is not None:
                questions = rows.target.questions
                contestants += peer.contestants(peer_document, engine.target, questions, sweep.new_tokens)
            devices = 1 if engine.mesh is None else engine.mesh.size
            yield measure(cell, contestants, sweep.repeats, bandwidth, devices, tick)


def _read_passages(methods: Sequence[Method], engine: Engine, rows: Workload) -> dict[int, ReadContext]:
    """What each model that reads passages has read, by the model's id; read once in self-speculation."""
    wanted: list[tuple[Any, list[list[int]]]] = []
    if any(not method.reads_document for method in methods):
        wanted.append((engine.target, rows.target.passages))
    if any(method.drafts for method in methods):
        wanted.append((engine.drafter, rows.drafter.passages))
    read: dict[int, ReadContext] = {}
    for model, passages in wanted:
        if id(model) not in read:
            read[id(model)] = read_context(engine, model, passages)
    return read
