"""A batch of questions, planned: what is retrieved, what each model reads, which program runs, which eta.

Answers, benchmarks and the planner take their step from here, so that they cannot differ in it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from models.cache import ContextCache
from models.decoder import Decoder
from models.language_model import LanguageModel
from rapid_jax.config import CopyingConfig, EngineConfig, HierarchyConfig, Method, SamplingConfig, SpeculationConfig
from rapid_jax.copying.drafter import CopiedBefore
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.drafter import Drafter
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import BurstReport, DecodeState
from rapid_jax.drafting.makers import Drafting, DraftingInputs, ModelCaches, maker_of
from rapid_jax.engine.contexts import PrefilledContext, prefill_questions
from rapid_jax.engine.length_rule import Decision, decide
from rapid_jax.engine.prompt import Prompt
from rapid_jax.engine.session import Session
from rapid_jax.engine.text import stop_ids_and_strings
from rapid_jax.hierarchy.row_databases import LearnedNgrams
from rapid_jax.hierarchy.setup import make_hierarchy
from rapid_jax.retrieval import RetrievedContext
from rapid_jax.speculation import GAMMAS
from rapid_jax.verification import verify_chain

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document


@dataclasses.dataclass(frozen=True)
class Request:
    """Questions about one document, and how they are to be answered.

    Attributes:
      document: that they are about.
      questions: one a row.
      queries: what to retrieve with for each row.
      method, speculation, sampling: how.
      max_chunks: chunks to retrieve; None takes what the config says.
    """

    document: Document
    questions: Sequence[str]
    queries: Sequence[str]
    method: Method
    speculation: SpeculationConfig
    sampling: SamplingConfig
    max_chunks: int | None = None


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
      copied_before: what earlier answers about the document have left to be copied.
      verify: who accepts, see StepSpec.
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
    copied_before: CopiedBefore = CopiedBefore()
    verify: Callable[..., tuple[jax.Array, jax.Array]] = verify_chain
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


def longest_draft(method: Method, speculation: SpeculationConfig, config: EngineConfig) -> int:
    """Tokens that a step of a method may draft, whichever length is chosen for it."""
    length = maker_of(method).draft_length(speculation, method.hierarchy(config.hierarchy), config.copying)
    return max(length, *GAMMAS) if speculation.choose_gamma and method.drafts_from_passages else length


def check_request(session: Session, request: Request) -> None:
    """Finds what is wrong with a request before anything slow.

    Raises:
      ValueError, FileNotFoundError: an empty question, no room in the target, options that do not go together, a
        database that is not there.
    """
    method, document = request.method, request.document
    if method.retrieves and document.is_conversation:
        raise ValueError(f"method {method.name} retrieves, and a conversation has no document to retrieve from")
    maker_of(method).check(method, request.speculation, session.drafter_mesh is not None)
    if method.looks_up:
        make_hierarchy(method.hierarchy(session.config.hierarchy), session.databases)
    prompt = document.prompt(session.target)
    for question, query in zip(request.questions, request.queries, strict=True):
        tokens = prompt.question(question)
        if method.reads_document:
            _check_room(session, request, session.target, document.num_tokens, len(tokens), head=len(document.head))
        if method.retrieves and not query.strip():
            raise ValueError("the retrieval query is empty: retrieval needs its words")


def plan_batch(session: Session, request: Request) -> Batch:
    """Retrieves, reads the contexts, and decides whether and how drafts are made.

    Raises:
      ValueError: no room left in a model's context.
    """
    document, method, speculation = request.document, request.method, request.speculation
    retrieved, retrieval_seconds = _retrieve(request) if method.retrieves else ((), 0.0)
    if method.reads_document:
        questions = _padded(session, [document.prompt(session.target).question(q) for q in request.questions])
        target = ModelInput(session.target, document.prefilled, questions)
    else:
        target = _passages(session, request, session.target, retrieved)
    start, compiled = time.perf_counter(), session.programs.compile_seconds
    decision = None
    if speculation.length_rule or speculation.choose_gamma:
        encode = session.drafter.tokenizer.encode
        passages = max((len(encode(one.text)) for one in retrieved), default=0)
        decision = decide(session, method, speculation, target.context, passages, len(target.questions))
    if decision is not None:
        method, speculation = decision.applied_to(method, speculation)
    seconds = time.perf_counter() - start - (session.programs.compile_seconds - compiled) + target.context.seconds
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
        earlier=document.earlier if len(request.questions) == 1 else None,
        copied_before=document.copied_before,
        retrieval_seconds=retrieval_seconds,
        prefill_seconds=seconds + (drafter.context.seconds if drafter is not None else 0.0),
    )


def start_batch(session: Session, batch: Batch) -> Started:
    """Reads the questions, makes the drafter, and the state before the first step.

    Raises:
      ValueError, FileNotFoundError: a database that is not there or does not fit.
    """
    config, sampling, programs = session.config, batch.sampling, session.programs

    def read(given: ModelInput, keep_out: int) -> tuple[ModelCaches, float]:
        context = given.context.cache
        sizes = dict(keep_out=keep_out, new_tokens=sampling.max_new_tokens)
        tail, seconds = prefill_questions(programs, given.model, context, given.questions, config, **sizes)
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
        context_tokens=max(batch.target.context.lengths),
        prompts=(batch.drafter or batch.target).prompts if batch.method.searches else (),
        earlier=batch.earlier,
        copied_before=batch.copied_before,
        new_tokens=sampling.max_new_tokens,
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
        capacity=token_bucket(sampling.max_new_tokens),
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
    """Each row's retrieved context, and the seconds that it took, the document's index included."""
    index = request.document.index
    start = time.perf_counter()
    found = tuple(index.retrieve(query, max_chunks=request.max_chunks) for query in request.queries)
    return found, request.document.index_seconds + time.perf_counter() - start


def _passages(
    session: Session, request: Request, model: LanguageModel, retrieved: Sequence[RetrievedContext]
) -> ModelInput:
    """What a model reads that reads the retrieved context of each row."""
    prompt = request.document.passages_prompt(model)
    assert isinstance(prompt, Prompt)  # a conversation has nothing to retrieve from
    contexts = [prompt.head() + prompt.document(one.text)[0] for one in retrieved]
    questions = [prompt.question(question) for question in request.questions]
    for context, question in zip(contexts, questions, strict=True):
        _check_room(session, request, model, len(context), len(question))
    return ModelInput(model, session.prefill_passages(model, _padded(session, contexts)), _padded(session, questions))


def _padded(session: Session, rows: list[Any]) -> list[Any]:
    """Rows filled up with copies of the first to a multiple of the data axis of each mesh."""
    data = math.lcm(session.config.mesh[0], *session.config.drafter_mesh[:1])
    return rows + [rows[0]] * (-len(rows) % data)


def _check_room(
    session: Session, request: Request, model: LanguageModel, context: int, question: int, *, head: int | None = None
) -> None:
    """The context, the question, the answer and one draft must fit the model's positions.

    Args:
      session, request, model: who reads what.
      context, question: tokens.
      head: tokens before a document, which no setting shortens; None for passages.
    """
    longest = longest_draft(request.method, request.speculation, session.config)
    new = request.sampling.max_new_tokens + longest + 1
    needed, limit = context + question + new, model.config.max_position
    if needed > limit:
        role = "target" if model is session.target else "drafter"
        fits = limit - question - new - (head or 0)
        remedy = f"set max_context_tokens to at most {fits}" if head is not None else "set retrieval.max_chunks lower"
        if fits < 1:
            remedy = "ask a shorter question, or for fewer new tokens"
        raise ValueError(
            f"the {role} would need {needed} positions (context {context}, question {question}, answer and draft "
            f"{new}), it has {limit}: {remedy}"
        )
