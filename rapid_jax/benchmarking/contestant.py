"""One of our methods as a contestant: the batch of an answer (rapid_jax.engine.batch) over contexts already read."""

from __future__ import annotations

import dataclasses
import statistics
import time

from rapid_jax.benchmarking.acceptance import ForcedAcceptance
from rapid_jax.benchmarking.measurement import Cell, Sample
from rapid_jax.benchmarking.prompts import BenchmarkPrompts
from rapid_jax.benchmarking.traffic import Forward, mean_tails, step_bytes
from rapid_jax.config import Method
from rapid_jax.config.methods import OWN_PLANES
from rapid_jax.drafting.makers import maker_of
from rapid_jax.engine.batch import Batch, ModelInput, start_batch
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.session import Session
from rapid_jax.verification import verify_chain


@dataclasses.dataclass(frozen=True)
class MethodContestant:
    """Decodes a cell's rows with one method; rows end at their number of tokens alone, never at a stop id.

    Attributes:
      session: models, settings and compiled programs.
      method: see there.
      cell: see there.
      prompts: exactly the cell's rows.
      context: what the target has read, the document or the passages.
      drafter_context: what the drafter has read; None for a method that does not draft from passages.
      forced: rate at which drafts are accepted; None leaves it to the models.
    """

    session: Session
    method: Method
    cell: Cell
    prompts: BenchmarkPrompts
    context: PrefilledContext
    drafter_context: PrefilledContext | None
    forced: float | None

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def context_tokens(self) -> int:
        return round(statistics.mean(self.context.lengths))

    @property
    def retrieved_tokens(self) -> int | None:
        read = self.context if not self.method.reads_document else self.drafter_context
        return round(statistics.mean(read.lengths)) if read is not None else None

    @property
    def forced_acceptance(self) -> float | None:
        return self.forced if self.method.draws else None

    @property
    def batch(self) -> Batch:
        """The cell's rows, as an answer's batch."""
        config, method, drafter = self.session.config, self.method, None
        if self.drafter_context is not None:
            drafter = ModelInput(self.session.drafter, self.drafter_context, self.prompts.drafter.questions)
        forced = self.forced_acceptance
        return Batch(
            method=method,
            speculation=dataclasses.replace(config.speculation, gamma=self.cell.gamma),
            sampling=dataclasses.replace(config.sampling, max_new_tokens=self.cell.new_tokens),
            hierarchy=method.hierarchy(config.hierarchy),
            copying=config.copying,
            target=ModelInput(self.session.target, self.context, self.prompts.target.questions),
            drafter=drafter,
            stop_ids=(),
            rows=self.cell.batch,
            verify=verify_chain if forced is None else ForcedAcceptance(forced),
        )

    def bytes_per_step(self, drafter_forwards: float) -> int:
        session, new, kv = self.session, self.cell.new_tokens, self.session.config.kv
        tails = mean_tails(self.prompts.target.questions, new)
        forwards = [Forward(session.target, self.context.lengths, tails, kv=kv)]
        if self.drafter_context is not None:
            tails = mean_tails(self.prompts.drafter.questions, new)
            forwards.append(Forward(session.drafter, self.drafter_context.lengths, tails, drafter_forwards, kv))
        elif self.method.drafting_model == OWN_PLANES:
            forwards.append(Forward(session.own_drafter, self.context.lengths, tails, drafter_forwards, "int4"))
        elif self.method.draws:  # the target itself, over a part of its own cache, which is copied into a tail
            maker, speculation = maker_of(self.method), session.config.speculation
            known = [self.context.lengths[0] + round(tail) for tail in tails]
            kept = [maker.tokens_read(speculation, tokens) for tokens in known]
            forwards.append(Forward(session.own_drafter, (), kept, drafter_forwards))
        return step_bytes(forwards)

    def run(self) -> Sample:
        """Prefills the questions, then decodes; only the latter is decoding time."""
        started = start_batch(self.session, self.batch)
        bursts = started.decode(self.session)
        report, decode_seconds = next(bursts), 0.0
        start = time.perf_counter()
        for following in bursts:
            report, decode_seconds = following, time.perf_counter() - start
        counters = report.counters
        contexts = [self.context] + ([self.drafter_context] if self.drafter_context is not None else [])
        return Sample(
            tokens=[row[:count].tolist() for row, count in zip(report.output, report.num_tokens, strict=True)],
            steps=counters.steps.tolist(),
            decode_seconds=decode_seconds,
            prefill_seconds=started.prefill_seconds + sum(context.seconds for context in contexts),
            proposed=int(counters.proposed.sum()),
            tested=int(counters.tested.sum()),
            accepted=int(counters.accepted.sum()),
            drafter_forwards=tuple(counters.drafter_forwards.tolist()),
        )
