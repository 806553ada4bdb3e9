"""One of our methods as a contestant: the pieces of an answer, over contexts that are already read."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import numpy as np

from models.cache import TailCache
from models.language_model import LanguageModel
from rapid_jax.benchmarking.acceptance import ForcedAcceptance
from rapid_jax.benchmarking.measurement import Cell, Sample
from rapid_jax.benchmarking.traffic import Forward, mean_tails, step_bytes
from rapid_jax.benchmarking.workload import Workload
from rapid_jax.config.methods import Method
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.state import DecodeState
from rapid_jax.decoding.step import StepSpec
from rapid_jax.drafting.setup import Reading, draft_length, read_window, set_up
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.reading import ReadContext, read_questions
from rapid_jax.timing import timed


@dataclasses.dataclass(frozen=True)
class MethodContestant:
    """Decodes a cell's rows with one method; rows end at their number of tokens alone, never at a stop id.

    Attributes:
      engine: models, settings and compiled programs.
      method: see there.
      cell: see there.
      workload: exactly the cell's rows.
      context: what the target has read, the document or the passages.
      drafter_context: what the drafter has read; None for a method that does not draft.
      forced: rate at which drafts are accepted; None leaves it to the models.
    """

    engine: Engine
    method: Method
    cell: Cell
    workload: Workload
    context: ReadContext
    drafter_context: ReadContext | None
    forced: float | None

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def context_tokens(self) -> int:
        return round(statistics.mean(self.context.lengths))

    @property
    def _draft_length(self) -> int:
        speculation = dataclasses.replace(self.engine.config.speculation, gamma=self.cell.gamma)
        return draft_length(self.method, speculation, self.engine.config.hierarchy)

    @property
    def retrieved_tokens(self) -> int | None:
        read = self.context if not self.method.reads_document else self.drafter_context
        return round(statistics.mean(read.lengths)) if read is not None else None

    @property
    def forced_acceptance(self) -> float | None:
        return self.forced if self.method.draws else None

    def bytes_per_step(self, drafter_forwards: float) -> int:
        engine, new = self.engine, self.cell.new_tokens
        tails, kv = mean_tails(self.workload.target.questions, new), engine.config.kv
        forwards = [Forward(engine.target, self.context.lengths, tails, kv=kv)]
        if self.drafter_context is not None:
            tails = mean_tails(self.workload.drafter.questions, new)
            forwards.append(Forward(engine.drafter, self.drafter_context.lengths, tails, drafter_forwards, kv))
        if self.method.windowed:
            kept = engine.config.speculation.sinks + engine.config.speculation.window
            known = [self.context.lengths[0] + tail for tail in forwards[0].tails]
            forwards.append(Forward(engine.target, (), [min(tokens, kept) for tokens in known], drafter_forwards))
        return step_bytes(forwards)

    def run(self) -> Sample:
        """Prefills the questions, then decodes; only the latter is decoding time."""
        engine, eta = self.engine, self.engine.config.speculation.eta
        (spec, drafter_model, state), seconds = timed(engine.programs, self._start)
        bursts = decode(
            engine.programs,
            spec,
            engine.target.params,
            self.context.cache,
            drafter_model,
            eta if self.method.transfers else 0.0,
            state,
            burst_steps=engine.config.burst_steps,
            mesh=engine.mesh,
        )
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
            prefill_seconds=seconds + sum(context.seconds for context in contexts),
            proposed=int(counters.proposed.sum()),
            tested=int(counters.tested.sum()),
            accepted=int(counters.accepted.sum()),
            drafter_forwards=tuple(counters.drafter_forwards.tolist()),
        )

    def _start(self) -> tuple[StepSpec, Any, DecodeState]:
        """The step, what the drafter reads, and the state before the first step."""
        engine, speculation, sampling = self.engine, self.engine.config.speculation, self.engine.config.sampling
        warping = (sampling.temperature, sampling.top_k, sampling.top_p)
        questions = self.workload.target.questions
        tail = self._read_questions(engine.target, self.context, questions, keep_out=1)
        reading, own = None, self.workload.target
        contexts = [self.workload.document] * len(questions)
        if self.drafter_context is not None:
            own = self.workload.drafter
            contexts = own.passages
            drafter_tail = self._read_questions(engine.drafter, self.drafter_context, own.questions, keep_out=2)
            reading = Reading(engine.drafter, self.drafter_context.cache, drafter_tail)
        if self.method.windowed:
            reading = read_window(
                engine.programs,
                engine.target,
                self.context.cache,
                tail,
                speculation,
                tokens=max(self.context.lengths),
                chunk=engine.config.prefill_chunk,
            )
        drafting = set_up(
            self.method,
            dataclasses.replace(speculation, gamma=self.cell.gamma),
            dataclasses.replace(sampling, max_new_tokens=self.cell.new_tokens),
            engine.config.hierarchy,
            engine.static_databases,
            vocab_size=engine.target.config.vocab_size,
            prompts=[context + question for context, question in zip(contexts, own.questions, strict=True)],
            reading=reading,
            mesh=engine.mesh,
        )
        rules = (speculation.tail, speculation.residual, speculation.alpha)
        apart = engine.drafter.decoder.mesh if self.method.drafts and engine.config.drafter_mesh else None
        spec = StepSpec(engine.target.decoder, drafting.drafter, *warping, *rules, stop_ids=(), apart=apart)
        if self.forced_acceptance is not None:
            spec = dataclasses.replace(spec, verify=ForcedAcceptance(self.forced_acceptance))
        state = initial_state(
            np.array([question[-2:] for question in questions], np.int32),
            tail,
            drafting.cache,
            budget=np.full(len(questions), self.cell.new_tokens, np.int32),
            capacity=token_bucket(self.cell.new_tokens),
            seed=sampling.seed,
            num_sources=len(drafting.drafter.sources),
            mesh=engine.mesh,
        )
        return spec, drafting.model, state

    def _read_questions(
        self, model: LanguageModel, context: ReadContext, questions: list[list[int]], *, keep_out: int
    ) -> TailCache:
        """The tails, without the last `keep_out` tokens of the prompt, which the first step takes."""
        room = self.cell.new_tokens + self._draft_length + 1
        return read_questions(self.engine, model, context.cache, questions, keep_out=keep_out, room=room)
