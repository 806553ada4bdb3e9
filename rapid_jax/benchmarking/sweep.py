"""All cells of a benchmark, one after the other; no more contexts are held than one length needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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

    def runs(self, peers: Sequence[PeerEngine] = ()) -> int:
        """How often something is run, unmeasured first runs included."""
        shared = len(self.context_lengths) * len(self.draft_lengths) * (self.repeats + 1)
        others = sum(len(peer.names(batch)) for peer in peers for batch in self.batch_sizes)
        return shared * (len(self.methods) * len(self.batch_sizes) + others)


def run_sweep(
    sweep: Sweep,
    engine: Engine,
    make_prompts: Callable[[Engine, int, int], BenchmarkPrompts],
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
      make_prompts: (engine, context tokens, rows) -> a prompts.
      bandwidth: of one device.
      peers: other engines to run beside ours.
      prefill_progress: called with (tokens read, tokens in all) while a document is read.
      tick: called after every run.

    Yields:
      The measurements of each cell, methods in the order of the sweep, then the peers'.
    """
    for length in sweep.context_lengths:
        prompts = make_prompts(engine, length, max(sweep.batch_sizes))
        yield from _length(sweep, engine, length, prompts, bandwidth, peers, prefill_progress, tick)


def _length(
    sweep: Sweep,
    engine: Engine,
    length: int,
    prompts: BenchmarkPrompts,
    bandwidth: Bandwidth,
    peers: Sequence[PeerEngine],
    progress: ProgressCallback | None,
    tick: Callable[[], None],
) -> Iterator[list[Measurement]]:
    """The cells of one context length; what they read goes when this ends."""
    session = engine.session
    document: PrefilledContext | None = None
    if any(method.reads_document for method in sweep.methods):
        document = session.prefill(session.target, [prompts.document], progress)
    peer_documents = [peer.read(prompts.document, session.config.prefill_chunk) for peer in peers]
    for batch in sweep.batch_sizes:
        rows = prompts.rows(batch)
        passages = _prefill_passages(sweep.methods, session, rows)
        for gamma in sweep.draft_lengths:
            cell = Cell(length, batch, gamma, sweep.new_tokens)
            contestants: list[Contestant] = []
            for method in sweep.methods:
                context = document if method.reads_document else passages[id(session.target)]
                assert context is not None
                drafter_context = passages[id(session.drafter)] if method.drafts_from_passages else None
                contestants.append(
                    MethodContestant(session, method, cell, rows, context, drafter_context, sweep.acceptance)
                )
            for peer, held in zip(peers, peer_documents, strict=True):
                contestants += peer.contestants(held, session.target, rows.target.questions, sweep.new_tokens)
            devices = 1 if session.mesh is None else session.mesh.size
            yield measure(cell, contestants, sweep.repeats, bandwidth, devices, tick)


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
