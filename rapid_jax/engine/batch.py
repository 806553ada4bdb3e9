"""A batch of questions, planned: what is retrieved, what each model reads, which program runs, which eta.

Answers, benchmarks and the planner take their step from here, so that they cannot differ in it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models.cache import ContextCache
from models.decoder import Decoder
from models.language_model import LanguageModel
from rapid_jax.config import CopyingConfig, HierarchyConfig, Method, SamplingConfig, SpeculationConfig
from rapid_jax.copying.drafter import CopiedBefore
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.drafter import Drafter
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.seats import Room
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import BurstReport, DecodeState
from rapid_jax.drafting.inputs import Drafting, DraftingInputs, ModelCaches
from rapid_jax.drafting.makers import maker_of
from rapid_jax.engine.contexts import KeptTail, PrefilledContext, prefill_questions
from rapid_jax.engine.length_rule import Decision, decide, decides
from rapid_jax.engine.prompt import Prompt
from rapid_jax.engine.request import Request, check_room
from rapid_jax.engine.session import Session
from rapid_jax.engine.text import stop_ids_and_strings
from rapid_jax.engine.together import read_together
from rapid_jax.hierarchy.row_databases import LearnedNgrams
from rapid_jax.retrieval import RetrievedContext
from rapid_jax.verification import verify_chain


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """What a model reads of a batch, as token ids.

    Attributes:
      model: the target or the drafter.
      context: one for all rows, or one a row.
      questions: what follows it, a row each: the question and the start of the answer.
    """

    model: LanguageModel
    context: PrefilledContext
    questions: Sequence[list[int]]

    @property
    def contexts(self) -> list[Sequence[int]]:
        """Each row's context."""
        rows = list(self.context.rows)
        return rows if len(rows) == len(self.questions) else rows * len(self.questions)

    @property
    def prompts(self) -> list[list[int]]:
        """Each row's whole prompt."""
        return [[*context, *question] for context, question in zip(self.contexts, self.questions, strict=True)]

    @property
    def prompt_tokens(self) -> list[int]:
        """The length of each row's prompt."""
        return [len(context) + len(question) for context, question in zip(self.contexts, self.questions, strict=True)]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that are decoded together, and how.

    Attributes:
      method, speculation, sampling, hierarchy, copying: in force, after the length rule has decided.
      target: what the target reads.
      drafter: what the drafting model reads; None where no model reads passages.
      stop_ids: token ids that end a row.
      rows: rows that somebody asked for; further ones fill the batch up for the mesh.
      retrieved: the retrieved context of each row; empty where nothing is retrieved.
      decision: of the length rule; None where it was not asked.
      earlier: what an earlier turn of a conversation has taught the databases.
      copied_before: what earlier answers about each row's document have left to be copied; empty for nothing.
      kept: of an earlier turn about the same document, what the target has read behind it; None for nothing.
      verify: who accepts, see StepSpec.
      room: for those who will sit in the same seats, see decoding.seats; of none where nobody will.
      retrieval_seconds, prefill_seconds: time spent so far.
    """

    method: Method
    speculation: SpeculationConfig
    sampling: SamplingConfig
    hierarchy: HierarchyConfig
    copying: CopyingConfig
    target: ModelInput
    drafter: ModelInput | None
    stop_ids: tuple[int, ...]
    rows: int
    retrieved: tuple[RetrievedContext, ...] = ()
    decision: Decision | None = None
    earlier: LearnedNgrams | None = None
    copied_before: Sequence[CopiedBefore] = ()
    kept: KeptTail | None = None
    verify: Callable[..., tuple[jax.Array, jax.Array]] = verify_chain
    room: Room = Room()
    retrieval_seconds: float = 0.0
    prefill_seconds: float = 0.0

    @property
    def draft_length(self) -> int:
        """Drafted tokens that a step can accept at most."""
        return maker_of(self.method).draft_length(self.speculation, self.hierarchy, self.copying)

    @property
    def controls(self) -> Controls:
        """The settings that the step takes as arguments."""
        return controls_of(self.method, self.speculation, self.sampling, self.stop_ids)

    @property
    def drafter_tokens(self) -> list[int]:
        """Tokens of each row's prompt that the drafting model sees; 0 without one."""
        read = (self.drafter or self.target).prompt_tokens
        return [maker_of(self.method).tokens_read(self.speculation, tokens) for tokens in read]


@dataclasses.dataclass(frozen=True)
class Started:
    """A batch whose prompts have been read: all that the decoding loop needs.

    Attributes:
      spec, controls: static part and arguments of the step.
      params, context: of the target.
      drafting: the drafter, and what it reads.
      state: before the first step.
      prefill_seconds: time that questions, window and databases took.
    """

    spec: StepSpec
    controls: Controls
    params: dict
    context: ContextCache
    drafting: Drafting
    state: DecodeState
    prefill_seconds: float

    def decode(self, session: Session) -> Generator[BurstReport, np.ndarray | None, DecodeState]:
        """Bursts of steps until all rows are done; see decoding.loop.decode. The state is used up."""
        return decode(
            session.programs,
            self.spec,
            self.params,
            self.context,
            self.drafting.model,
            self.controls,
            self.state,
            burst_steps=session.config.burst_steps,
            mesh=session.mesh,
        )


def controls_of(
    method: Method, speculation: SpeculationConfig, sampling: SamplingConfig, stop_ids: Sequence[int]
) -> Controls:
    """The arguments of a method's step; only methods that transfer have an eta."""
    warping = Warping.of(sampling.temperature, sampling.top_k, sampling.top_p)
    return Controls.of(eta=speculation.eta if method.transfers else 0.0, warping=warping, stop_ids=stop_ids)


def spec_of(
    method: Method,
    target: Decoder,
    drafter: Drafter,
    speculation: SpeculationConfig,
    *,
    verify: Callable[..., tuple[jax.Array, jax.Array]] = verify_chain,
    drafter_mesh: Mesh | None = None,
) -> StepSpec:
    """The static part of a method's step; drafter_mesh is the drafter's own devices, if it has any."""
    apart = drafter_mesh if method.drafts_from_passages else None
    return StepSpec(target, drafter, speculation.rule, verify, apart)


def plan_batch(session: Session, request: Request) -> Batch:
    """Retrieves, reads the contexts, and decides whether and how drafts are made.

    Raises:
      ValueError: no room left in a model's context.
    """
    method, speculation = request.method, request.speculation
    retrieved, retrieval_seconds = _retrieve(request) if method.retrieves else ((), 0.0)
    if method.reads_document:
        asked = zip(request.documents, request.questions, strict=True)
        questions = _padded(session, [document.prompt(session.target).question(q) for document, q in asked])
        target = ModelInput(session.target, _documents(session, request), questions)
    else:
        target = _passages(session, request, session.target, retrieved)
    seconds, decision = target.context.seconds, None
    if decides(method, speculation):
        encode = session.drafter.tokenizer.encode
        passages = max((len(encode(one.text)) for one in retrieved), default=0)
        rows = len(target.questions)
        decision, measuring = decide(session, method, speculation, target.context, passages, rows)
        method, speculation = decision.applied_to(method, speculation)
        seconds += measuring
    drafter = _passages(session, request, session.drafter, retrieved) if method.drafts_from_passages else None
    tokenizer = session.target.tokenizer
    return Batch(
        method=method,
        speculation=speculation,
        sampling=request.sampling,
        hierarchy=method.hierarchy(session.config.hierarchy),
        copying=session.config.copying,
        target=target,
        drafter=drafter,
        stop_ids=tuple(sorted({*tokenizer.stop_ids, *stop_ids_and_strings(tokenizer, request.sampling.stop)[0]})),
        rows=len(request.questions),
        retrieved=retrieved,
        decision=decision,
        earlier=request.documents[0].earlier if len(request.questions) == 1 else None,
        copied_before=_padded(session, [document.copied_before for document in request.documents]),
        kept=request.kept if method.reads_document else None,
        retrieval_seconds=retrieval_seconds,
        prefill_seconds=seconds + (drafter.context.seconds if drafter is not None else 0.0),
    )


def start_batch(session: Session, batch: Batch) -> Started:
    """Reads the questions, makes the drafter, and the state before the first step.

    Raises:
      ValueError, FileNotFoundError: a database that is not there or does not fit.
    """
    config, sampling, programs, room = session.config, batch.sampling, session.programs, batch.room
    new_tokens = max(sampling.max_new_tokens, room.new_tokens)

    def read(given: ModelInput, keep_out: int) -> tuple[ModelCaches, float]:
        context = given.context.cache
        sizes = dict(keep_out=keep_out, new_tokens=new_tokens, question_tokens=room.question_tokens)
        kept = batch.kept if given is batch.target else None
        tail, seconds = prefill_questions(programs, given.model, context, given.questions, config, kept=kept, **sizes)
        return ModelCaches(given.model, context, tail), seconds

    target, seconds = read(batch.target, 1)
    drafter, drafter_seconds = read(batch.drafter, 2) if batch.drafter is not None else (None, 0.0)
    inputs = DraftingInputs(
        speculation=batch.speculation,
        hierarchy=batch.hierarchy,
        copying=batch.copying,
        databases=session.databases,
        programs=programs,
        chunk=config.prefill_chunk,
        target=target,
        drafter=drafter,
        own=session.own_drafter,
        context_tokens=batch.target.context.lengths,
        prompts=(batch.drafter or batch.target).prompts if batch.method.searches else (),
        earlier=batch.earlier,
        copied_before=batch.copied_before,
        new_tokens=new_tokens,
        prompt_tokens=max(batch.target.context.lengths) + room.question_tokens if room.question_tokens else 0,
        seed=sampling.seed,
        mesh=session.mesh,
    )

    def make() -> Drafting:
        made = maker_of(batch.method).make(inputs)
        jax.block_until_ready(made.cache)
        return made

    drafting, making_seconds = programs.timed(make)
    questions, drafter_questions = batch.target.questions, (batch.drafter or batch.target).questions
    budget = np.zeros(len(questions), np.int32)
    budget[: batch.rows] = sampling.max_new_tokens
    state = initial_state(
        np.array([question[-2:] for question in questions], np.int32),
        target.tail,
        drafting.cache,
        drafter_last_tokens=np.array([question[-2:] for question in drafter_questions], np.int32),
        budget=budget,
        capacity=token_bucket(new_tokens),
        seed=sampling.seed,
        num_sources=len(drafting.drafter.sources),
        mesh=session.mesh,
    )
    decoder, apart = session.target.decoder, session.drafter_mesh
    return Started(
        spec_of(batch.method, decoder, drafting.drafter, batch.speculation, verify=batch.verify, drafter_mesh=apart),
        batch.controls,
        session.target.params,
        batch.target.context.cache,
        drafting,
        state,
        seconds + drafter_seconds + making_seconds,
    )


def _retrieve(request: Request) -> tuple[tuple[RetrievedContext, ...], float]:
    """Each row's retrieved context, and the seconds that it took, the documents' indices included."""
    documents = [document.root for document in request.documents]
    indices = [document.index for document in documents]
    start = time.perf_counter()
    asked = zip(indices, request.queries, strict=True)
    found = tuple(index.retrieve(query, max_chunks=request.max_chunks) for index, query in asked)
    seconds = time.perf_counter() - start
    return found, seconds + sum(document.index_seconds for document in dict.fromkeys(documents))


def _documents(session: Session, request: Request) -> PrefilledContext:
    """What the target reads of a request: the one document of all rows, or a document a row."""
    if request.shared is not None:
        return request.shared.prefilled
    return read_together(session, _padded(session, list(request.documents)))


def _passages(
    session: Session, request: Request, model: LanguageModel, retrieved: Sequence[RetrievedContext]
) -> ModelInput:
    """What a model reads that reads the retrieved context of each row."""
    contexts, questions = [], []
    for document, question, one in zip(request.documents, request.questions, retrieved, strict=True):
        prompt = document.passages_prompt(model)
        assert isinstance(prompt, Prompt)  # a conversation has nothing to retrieve from
        contexts.append(prompt.head() + prompt.document(one.text)[0])
        questions.append(prompt.question(question))
        check_room(session, request, model, len(contexts[-1]), len(questions[-1]), talks=document.has_turns)
    return ModelInput(model, session.prefill_passages(model, _padded(session, contexts)), _padded(session, questions))


def _padded(session: Session, rows: list[Any]) -> list[Any]:
    """Rows filled up with copies of the first to a multiple of the data axis of each mesh."""
    data = math.lcm(session.config.mesh[0], *session.config.drafter_mesh[:1])
    return rows + [rows[0]] * (-len(rows) % data)
