"""One batch of questions about one document, from retrieval to answers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from models.cache import ContextCache, TailCache
from rapid_jax.config import SamplingConfig, SpeculationConfig
from rapid_jax.config.methods import Method
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.state import DecodeState, Report
from rapid_jax.decoding.step import StepSpec
from rapid_jax.drafting.setup import Drafting, Reading, check_options, draft_length, read_window, set_up
from rapid_jax.engine.answer import Acceptance, Answer, Seconds
from rapid_jax.engine.length_rule import Decision, decide
from rapid_jax.engine.reading import read_context, read_questions
from rapid_jax.engine.text import TextRow
from rapid_jax.hierarchy.memory import Memory, Remembered
from rapid_jax.hierarchy.setup import make_hierarchy
from rapid_jax.planning.cost import GAMMAS
from rapid_jax.retrieval import RetrievedContext
from rapid_jax.timing import timed

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document
    from rapid_jax.engine.engine import Engine


@dataclasses.dataclass(frozen=True)
class Reader:
    """What a model has read: its context, the questions behind it, and each row's prompt length in tokens."""

    context: ContextCache
    tail: TailCache
    num_tokens: list[int]


class Run:
    """Answers questions with one method: iterate over `texts` to its end, then take `answers`."""

    def __init__(
        self,
        engine: Engine,
        document: Document,
        questions: Sequence[str],
        method: Method,
        speculation: SpeculationConfig,
        sampling: SamplingConfig,
        retrieval_queries: Sequence[str],
        max_chunks: int | None = None,
    ):
        self._engine = engine
        self._document = document
        self._questions = questions
        self._method = method
        self._speculation = speculation
        self._sampling = sampling
        self._queries = retrieval_queries
        self._max_chunks = max_chunks
        self._draft_length = draft_length(method, speculation, engine.config.hierarchy)
        if speculation.choose_gamma and method.drafts:
            self._draft_length = max(self._draft_length, *GAMMAS)
        self._decision: Decision | None = None
        self._drafting: Drafting | None = None
        self._prompts = {id(model): document.prompt(model) for model in (engine.target, engine.drafter)}
        self._passages_prompts = {id(m): document.passages_prompt(m) for m in (engine.target, engine.drafter)}
        if method.retrieves and document.is_conversation:
            raise ValueError(f"method {method.name} retrieves, and a conversation has no document to retrieve from")
        check_options(method, speculation, apart=bool(engine.config.drafter_mesh))
        if method.looks_up:  # a database that is not there is found before anything is read
            make_hierarchy(method.hierarchy(engine.config.hierarchy), engine.static_databases)
        for question, query in zip(questions, retrieval_queries, strict=True):
            suffix = self._prompts[id(engine.target)].question(question)
            if method.reads_document:
                self._check_room(engine.target, "target", document.num_tokens, len(suffix))
            if method.retrieves and not query.strip():
                raise ValueError("the retrieval query is empty: retrieval needs its words")
        self._compiled_before = engine.programs.compile_seconds
        self._seconds = {"retrieval": 0.0, "prefill": 0.0, "decode": 0.0}
        self._retrieved: list[RetrievedContext] = []
        self._target_tokens: list[int] = []
        self._drafter_tokens = [0] * len(questions)
        self._rows = [TextRow(engine.target.tokenizer, sampling.stop) for _ in questions]
        self._report: Report | None = None

    def texts(self) -> Iterator[list[str]]:
        """Decodes; yields, after every burst, each row's new text.

        Raises:
          ValueError: no room left in a model's context.
        """
        engine, sampling = self._engine, self._sampling
        spec, context, drafter_model, state = self.prepare()
        bursts = decode(
            engine.programs,
            spec,
            engine.target.params,
            context,
            drafter_model,
            self._speculation.eta if self._method.transfers else 0.0,
            state,
            burst_steps=engine.config.burst_steps,
            mesh=engine.mesh,
        )
        next(bursts)
        start = time.perf_counter()
        taken = [0] * len(self._rows)
        stopped = None
        while True:
            try:
                report = bursts.send(stopped)
            except StopIteration as end:
                self._remember(end.value)
                break
            self._report = report
            self._seconds["decode"] = time.perf_counter() - start
            pieces = []
            for index, row in enumerate(self._rows):
                tokens = report.output[index, taken[index] : report.num_tokens[index]].tolist()
                taken[index] += len(tokens)
                pieces.append(row.push(tokens, last=bool(report.done[index])))
            if sampling.stop:
                stopped = np.zeros(len(report.done), bool)
                stopped[: len(self._rows)] = [row.stopped for row in self._rows]
            yield pieces

    def _remember(self, state: DecodeState) -> None:
        """Leaves with a conversation what its databases have learned, for its next turn."""
        document, memory = self._document, state.drafter_cache
        if isinstance(memory, Memory) and document.is_conversation and len(self._rows) == 1:
            (prompt,) = self._prompt_rows(self._engine.target)[:1]
            document.remembered = Remembered(memory, (*prompt, *self._rows[0].token_ids))

    def answers(self) -> list[Answer]:
        """The answers, one a question.

        Raises:
          RuntimeError: `texts` has not been read to its end.
        """
        report = self._report
        if report is None or not all(row.stopped or report.done[i] for i, row in enumerate(self._rows)):
            raise RuntimeError("the answer is not there before its stream has been read to the end")
        counters = report.counters
        tested, accepted = (int(x[: len(self._rows)].sum()) for x in (counters.tested, counters.accepted))
        if tested and self._method.draws:
            self._engine.acceptance_seen[self._method.name] = accepted / tested
        return [self._answer(index, row, report) for index, row in enumerate(self._rows)]

    def _retrieve(self) -> None:
        index = self._document.index
        start = time.perf_counter()
        self._retrieved = [index.retrieve(query, max_chunks=self._max_chunks) for query in self._queries]
        self._seconds["retrieval"] = self._document.index_seconds + time.perf_counter() - start

    def prepare(self) -> tuple[StepSpec, ContextCache, Any, DecodeState]:
        """Retrieves, prefills target and drafter, and makes the state before the first step.

        Raises:
          ValueError: no room left in a model's context.
        """
        if self._method.retrieves:
            self._retrieve()
        engine, document, sampling = self._engine, self._document, self._sampling
        if self._method.reads_document:
            context, lengths = document.context, [document.num_tokens] * len(self._questions)
            self._seconds["prefill"] += document.prefill_seconds
        else:
            context, lengths = self._read_retrieved(engine.target, "target")
        self._decide(context, max(lengths))
        target = self._read_questions(engine.target, context, lengths, keep_out=1)
        self._target_tokens = target.num_tokens
        drafting = self._drafting = self._set_up_drafter(target)
        spec = StepSpec(
            target=engine.target.decoder,
            drafter=drafting.drafter,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            tail=self._speculation.tail,
            residual=self._speculation.residual,
            alpha=self._speculation.alpha,
            stop_ids=tuple(engine.target.tokenizer.stop_ids),
            apart=engine.drafter.decoder.mesh if self._method.drafts and engine.config.drafter_mesh else None,
        )
        prompt = (self._prompts if self._method.reads_document else self._passages_prompts)[id(engine.target)]
        budget = [sampling.max_new_tokens] * len(self._questions)
        state = initial_state(
            np.array(self._padded([prompt.question(q)[-2:] for q in self._questions]), np.int32),
            target.tail,
            drafting.cache,
            budget=np.array(budget + [0] * (len(self._padded(budget)) - len(budget)), np.int32),
            capacity=token_bucket(sampling.max_new_tokens),
            seed=sampling.seed,
            num_sources=len(drafting.drafter.sources),
            mesh=engine.mesh,
        )
        return spec, target.context, drafting.model, state

    def _decide(self, context: ContextCache, tokens: int) -> None:
        """Draft length and whether anything is drafted, where the config leaves that to the length rule."""
        if not (self._speculation.length_rule or self._speculation.choose_gamma):
            return
        engine, compiled, start = self._engine, self._engine.programs.compile_seconds, time.perf_counter()
        encode = engine.drafter.tokenizer.encode
        passages = max((len(encode(retrieved.text)) for retrieved in self._retrieved), default=0)
        rows = len(self._padded(list(self._questions)))
        decision = self._decision = decide(engine, self._method, self._speculation, context, tokens, passages, rows)
        if decision is None:
            return
        self._seconds["prefill"] += time.perf_counter() - start - (engine.programs.compile_seconds - compiled)
        if decision.gamma:
            self._speculation = dataclasses.replace(self._speculation, gamma=decision.gamma)
        else:
            self._method = dataclasses.replace(self._method, drafts=False, transfers=False)
        self._draft_length = decision.gamma

    def _set_up_drafter(self, target: Reader) -> Drafting:
        """Who drafts, with the passages or the prompt read, given what the target has read."""
        engine, reading, prompts = self._engine, None, []
        if self._method.drafts:
            context, lengths = self._read_retrieved(engine.drafter, "drafter")
            reader = self._read_questions(engine.drafter, context, lengths, keep_out=2)
            self._drafter_tokens = reader.num_tokens
            reading = Reading(engine.drafter, reader.context, reader.tail)
        if self._method.windowed:
            reading = self._read_window(target)
        start, compiled = time.perf_counter(), engine.programs.compile_seconds
        if self._method.looks_up:
            prompts = self._prompt_rows(engine.drafter if self._method.drafts else engine.target)
        drafting = set_up(
            self._method,
            self._speculation,
            self._sampling,
            engine.config.hierarchy,
            engine.static_databases,
            vocab_size=engine.target.config.vocab_size,
            prompts=prompts,
            reading=reading,
            earlier=self._document.earlier if len(self._rows) == 1 else None,
            mesh=engine.mesh,
        )
        jax.block_until_ready(drafting.cache)
        if self._method.looks_up:
            self._seconds["prefill"] += time.perf_counter() - start - (engine.programs.compile_seconds - compiled)
        return drafting

    def _read_window(self, target: Reader) -> Reading:
        """The parts of its own caches that the target drafts from."""
        engine, speculation = self._engine, self._speculation
        reading, seconds = timed(
            engine.programs,
            lambda: read_window(
                engine.programs,
                engine.target,
                target.context,
                target.tail,
                speculation,
                tokens=self._document.num_tokens,
                chunk=engine.config.prefill_chunk,
            ),
        )
        self._seconds["prefill"] += seconds
        kept = speculation.sinks + speculation.window
        self._drafter_tokens = [min(tokens, kept) for tokens in target.num_tokens]
        return reading

    def _prompt_rows(self, model: Any) -> list[list[int]]:
        """Each row's whole prompt as a model reads it: the document, or what was retrieved if the model drafts."""
        prompt = (self._passages_prompts if self._method.drafts else self._prompts)[id(model)]
        questions = [prompt.question(question) for question in self._questions]
        if self._method.drafts:
            contexts = [prompt.head() + model.tokenizer.encode(retrieved.text) for retrieved in self._retrieved]
        else:
            contexts = [self._document.head + self._document.tokenized.tokens] * len(questions)
        return self._padded([context + question for context, question in zip(contexts, questions, strict=True)])

    def _read_retrieved(self, model: Any, role: str) -> tuple[ContextCache, list[int]]:
        """A model's cache of each row's retrieved context, and the rows' lengths in tokens.

        Methods that are compared ask for the same passages: what a model has read last is not read again, but its
        seconds count for every method.
        """
        engine = self._engine
        prompt = self._passages_prompts[id(model)]
        contexts = [prompt.head() + model.tokenizer.encode(retrieved.text) for retrieved in self._retrieved]
        for context, question in zip(contexts, self._questions, strict=True):
            self._check_room(model, role, len(context), len(prompt.question(question)))
        rows = self._padded(contexts)
        last = engine.passages_read.pop(id(model), None)
        if last is None or last.rows != rows:
            last = None  # its memory is free before the next cache is made
            last = read_context(engine, model, rows)
        engine.passages_read[id(model)] = last
        self._seconds["prefill"] += last.seconds
        return last.cache, [len(context) for context in contexts]

    def _read_questions(self, model: Any, context: ContextCache, lengths: list[int], *, keep_out: int) -> Reader:
        """Prefills a model's tails with the questions.

        Args:
          keep_out: how many of the last prompt tokens stay for the first decoding step.
        """
        engine = self._engine
        behind_passages = keep_out == 2 or not self._method.reads_document  # a drafter, or rag's target
        prompt = (self._passages_prompts if behind_passages else self._prompts)[id(model)]
        questions = self._padded([prompt.question(question) for question in self._questions])
        room = self._sampling.max_new_tokens + self._draft_length + 1
        tail, seconds = timed(
            engine.programs,
            lambda: read_questions(engine, model, context, questions, keep_out=keep_out, room=room),
        )
        self._seconds["prefill"] += seconds
        return Reader(context, tail, [n + len(q) for n, q in zip(lengths, questions, strict=False)])

    def _padded(self, rows: list) -> list:
        """Rows filled up with copies of the first to a multiple of the data axis of each mesh."""
        config = self._engine.config
        data = math.lcm(config.mesh[0], *config.drafter_mesh[:1])
        return rows + [rows[0]] * (-len(rows) % data)

    def _check_room(self, model: Any, role: str, context: int, question: int) -> None:
        """The context, the question, the answer and one draft must fit the model's positions."""
        new = self._sampling.max_new_tokens + self._draft_length + 1
        needed, limit = context + question + new, model.config.max_position
        if needed > limit:
            raise ValueError(
                f"the {role} would need {needed} positions (context {context}, question {question}, answer and draft "
                f"{new}), it has {limit}: set max_context_tokens to at most {max(limit - question - new, 0)}"
            )

    def _answer(self, index: int, row: TextRow, report: Report) -> Answer:
        engine = self._engine
        names = ("steps", "proposed", "tested", "accepted", "drafter_forwards")
        counters = {name: int(getattr(report.counters, name)[index]) for name in names}
        drafting = self._drafting
        assert drafting is not None  # there is a report
        by_source = dict(zip(drafting.drafter.sources, report.counters.by_source[index].tolist(), strict=True))
        if row.stopped:
            reason = "stop_string"
        else:
            reason = "stop" if row.token_ids and row.token_ids[-1] in engine.target.tokenizer.stop_ids else "length"
        retrieved = self._retrieved[index] if self._retrieved else None
        return Answer(
            method=self._method.name,
            question=self._questions[index],
            text=row.text.strip(),
            token_ids=tuple(row.token_ids),
            finish_reason=reason,
            target_tokens=self._target_tokens[index],
            drafter_tokens=self._drafter_tokens[index],
            truncated_tokens=self._document.tokenized.truncated_tokens,
            passages=tuple(map(self._document.in_source, retrieved.passages)) if retrieved else (),
            below_threshold=bool(retrieved and retrieved.below_threshold),
            batch_size=len(self._rows),
            seconds=Seconds(
                load=engine.load_seconds,
                compile=engine.programs.compile_seconds - self._compiled_before,
                **self._seconds,
            ),
            acceptance=Acceptance(**counters, generated=int(report.num_tokens[index]), by_source=by_source),
            database_bytes=drafting.database_bytes,
            settings=self._settings(drafting),
            versions=engine.versions,
        )

    def _settings(self, drafting: Drafting) -> dict[str, Any]:
        settings = {**dataclasses.asdict(self._speculation), **dataclasses.asdict(self._sampling)}
        settings["stop"] = list(settings["stop"])
        settings["gamma"] = self._draft_length
        if self._decision is not None:
            settings["decision"] = self._decision.to_dict()
        settings["eta"] = self._speculation.eta if self._method.transfers else 0.0
        if not self._method.windowed:
            del settings["sinks"], settings["window"]
        if self._method.looks_up:
            settings["hierarchy"] = {
                **dataclasses.asdict(self._method.hierarchy(self._engine.config.hierarchy)),
                "databases": list(drafting.databases),
            }
        settings["dtype"] = str(np.dtype(self._engine.target.decoder.dtype))
        settings["mesh"] = list(self._engine.config.mesh)
        settings["drafter_mesh"] = list(self._engine.config.drafter_mesh)
        for name in ("weights", "drafter_weights", "kv"):
            settings[name] = getattr(self._engine.config, name)
        return settings
