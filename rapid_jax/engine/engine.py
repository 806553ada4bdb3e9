"""The Engine: load models once, read a document once, ask it many questions."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

import models
from models import checkpoint, hub, sharding
from models.language_model import LanguageModel
from models.tokenizer import load_tokenizer, same_vocabulary
from rapid_jax.config import EngineConfig, SamplingConfig, SpeculationConfig, embedded
from rapid_jax.config.methods import Method, get_method
from rapid_jax.decoding.prefill import Progress
from rapid_jax.decoding.programs import Programs
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.document import Document, Stream
from rapid_jax.engine.prompt import Conversation, Prompt, TokenizedDocument, tokenize_document
from rapid_jax.engine.reading import ReadContext
from rapid_jax.engine.run import Run
from rapid_jax.hierarchy.setup import StaticDatabases, make_hierarchy
from rapid_jax.planning.cost import StepSeconds
from rapid_jax.retrieval import Retriever, make_embedder

__all__ = ["Document", "Engine", "Stream", "apply_overrides", "check_checkpoints"]

QUESTION_RESERVE = 512  # tokens kept free for a question when a document is cut to the model's context length


class Engine:
    """A target, a drafter, a retriever and their compiled programs. Make it with `Engine.load`.

    Attributes:
      config: see EngineConfig.
      target, drafter: language models; the same object in self-speculation, so that no weight is held twice, unless the
        drafter has devices of its own.
      mesh: devices, or None for a single one.
      programs: what has been compiled.
      retriever: makes retrieved contexts.
      passages_read: by a model's id, the passages that it has read last; methods with the same
        passages share them. They stay in the device's memory until others are read.
      load_seconds: time spent in loading.
      step_costs: what the length rule has measured, by sizes.
      acceptance_seen: by method, the share of tested draft tokens that its last answers kept.
    """

    def __init__(self, config: EngineConfig, target: Any, drafter: Any, mesh: Any, load_seconds: float):
        self.config = config
        self.target = target
        self.drafter = drafter
        self.mesh = mesh
        self.load_seconds = load_seconds
        self.programs = Programs()
        self.passages_read: dict[int, ReadContext] = {}
        self.step_costs: dict[tuple[int, ...], StepSeconds] = {}
        self.acceptance_seen: dict[str, float] = {}

    @classmethod
    def load(
        cls,
        target: str | None = None,
        drafter: str | None = None,
        config: EngineConfig | None = None,
        *,
        progress: Progress | None = None,
    ) -> Engine:
        """Loads the models.

        Args:
          target: directory or hub name; overrides config.target. Neither means the embedded model.
          drafter: the same for the drafter; neither means the target's own parameters (self-speculation).
          config: everything else.
          progress: called with (bytes read, bytes in all).

        Raises:
          ValueError: a checkpoint that cannot be used, vocabularies that differ, a mesh that does not divide the model.
          FileNotFoundError: no such checkpoint.
        """
        config = config or EngineConfig()
        config = dataclasses.replace(
            config,
            target=config.target if target is None else target,
            drafter=config.drafter if drafter is None else drafter,
        )
        start = time.perf_counter()
        mesh = sharding.mesh_of(config.mesh)
        paths = [config.target or embedded.model_path(), config.drafter or config.target or embedded.model_path()]
        check_checkpoints(paths if paths[0] != paths[1] else paths[:1], config)
        model = models.load(
            paths[0],
            dtype=config.dtype or None,
            mesh=mesh,
            quantize=config.weights,
            backend=config.attention or None,
            progress=progress,
        )
        drafts = _load_drafter(config, paths[1], model if paths[0] == paths[1] else None, mesh, progress)
        return cls(config, model, drafts, mesh, time.perf_counter() - start)

    def with_drafter(self, drafter: str) -> Engine:
        """An engine with the same target, in the same memory, and another drafter; it can ask this one's documents.

        Args:
          drafter: directory or hub name; "" is self-speculation.

        Raises:
          ValueError, FileNotFoundError: as `load`.
        """
        start = time.perf_counter()
        config = dataclasses.replace(self.config, drafter=drafter)
        path, own = str(self.target.path), self.target
        if drafter and drafter != config.target:
            check_checkpoints([path, drafter], config)
            path, own = drafter, None
        model = _load_drafter(config, path, own, self.mesh)
        engine = Engine(config, self.target, model, self.mesh, self.load_seconds + time.perf_counter() - start)
        engine.programs = self.programs
        return engine

    @functools.cached_property
    def retriever(self) -> Retriever:
        """Made when first needed, because a sentence encoder takes time to load."""
        retrieval = self.config.retrieval
        return Retriever(self.target.tokenizer.hf, make_embedder(retrieval.embedder), retrieval)

    @functools.cached_property
    def static_databases(self) -> StaticDatabases:
        """The n-gram databases that are only read; each is opened when a method first asks it."""
        config = self.config.hierarchy
        if not self.config.target:
            config = embedded.with_databases(config)
        return StaticDatabases(config, self.target, self.mesh)

    def require(self, methods: Sequence[Method]) -> None:
        """Loads what methods need beside the models, so that what is missing is found before anything slow.

        Raises:
          ValueError, FileNotFoundError: an encoder or a database that is not there, or not for this tokenizer.
        """
        if any(method.retrieves for method in methods):
            self.retriever  # noqa: B018  (made on first use)
        for method in methods:
            if method.looks_up:
                hierarchy = make_hierarchy(method.hierarchy(self.config.hierarchy), self.static_databases)
                self.static_databases.arrays(hierarchy)

    def read(
        self,
        text: str,
        *,
        template: str | None = None,
        drafter_template: str | None = None,
        keep: tuple[int, int] | None = None,
        prefill: bool = True,
        progress: Progress | None = None,
    ) -> Document:
        """Tokenises a document and reads it into the target's context cache.

        Args:
          text: the document.
          template: user message with {document} before {question}; None takes config.prompt.
          drafter_template: the same around retrieved passages, for whoever reads them; None takes
            config.drafter_prompt, or the document's template where that is empty.
          keep: tokens of a longer document that are kept at its start and at its end, at most what the model has room
            for; None shares the room evenly.
          prefill: read it now; otherwise when a method first needs it (retrieval alone never does).
          progress: called with (tokens read, tokens in all) after every chunk.

        Raises:
          ValueError: the document is empty, or too long where truncation is "error".
        """
        passages_template = self.config.drafter_prompt if drafter_template is None else drafter_template
        template = self.config.prompt if template is None else template
        limit = self._document_limit(len(Prompt(self.target.tokenizer, template).head()))
        tokenized = tokenize_document(
            self.target.tokenizer, text, keep if keep and sum(keep) <= limit else limit, self.config.truncation
        )
        if tokenized.truncated_tokens:
            logging.warning(
                "the document has %d tokens, the limit is %d: %d tokens of its middle are left out",
                len(tokenized.tokens) + tokenized.truncated_tokens,
                len(tokenized.tokens),
                tokenized.truncated_tokens,
            )
        document = Document(
            self,
            text,
            tokenized,
            lambda m: Prompt(m.tokenizer, template),
            progress,
            passages_prompt=lambda m: Prompt(m.tokenizer, passages_template or template),
        )
        if prefill:
            document.context  # noqa: B018  (computed on first use)
        return document

    def converse(self, messages: Sequence[dict[str, str]], *, after: Document | None = None) -> Document:
        """A conversation as a document of its own, answered with document.ask(the last message); nothing to retrieve.

        Args:
          messages: {"role", "content"} of each turn, the last of the user.
          after: the same conversation one turn earlier, answered: methods that look drafts up go on with what it taught
            their databases, where they would begin with the messages alone.

        Raises:
          ValueError: no turn, a template that refuses it, or more tokens than the model has room for.
        """
        if not messages or messages[-1].get("role") != "user":
            raise ValueError("a conversation must end with a message of the user")
        head = Conversation(self.target.tokenizer, messages).head()
        room = self._document_limit(0)
        if len(head) > room:
            raise ValueError(f"the conversation has {len(head) + 2} tokens, the model has room for {room + 2}")
        nothing = TokenizedDocument([], "", 0, 0, 0)
        return Document(
            self,
            "",
            nothing,
            lambda m: Conversation(m.tokenizer, messages),
            earlier=None if after is None else after.remembered,
        )

    def _document_limit(self, head: int) -> int:
        """Tokens that a document may have behind a head of so many tokens."""
        config = self.config
        reserve = QUESTION_RESERVE + config.sampling.max_new_tokens + config.speculation.gamma + 1
        free = self.target.config.max_position - head - reserve
        limit = min(config.max_context_tokens or free, free)
        if limit < 1:
            raise ValueError(
                f"the model's context of {self.target.config.max_position} tokens leaves no room for a document beside "
                f"{config.sampling.max_new_tokens} new tokens; ask for fewer new tokens"
            )
        return limit

    def ask_many(
        self,
        document: Document,
        questions: Sequence[str],
        method: str = "rapid",
        *,
        retrieval_queries: Sequence[str] | None = None,
        max_chunks: int | None = None,
        **overrides: Any,
    ) -> list[Answer]:
        """Answers several questions about one document in one batch; its cache is read once for all of them.

        Args:
          document: from `read`.
          questions: one a row.
          method: a name in METHODS.
          retrieval_queries: what to retrieve with for each row, such as the question without its choices; None takes
            the questions.
          max_chunks: chunks to retrieve; None takes what the config says.
          **overrides: fields of SpeculationConfig and SamplingConfig for this call.

        Raises:
          ValueError: no question, an empty one, another number of queries, or a bad override.
        """
        if not questions or isinstance(questions, str):
            raise ValueError(f"questions must be a list of at least one question, got {questions!r}")
        if retrieval_queries is not None and len(retrieval_queries) != len(questions):
            raise ValueError(
                f"{len(retrieval_queries)} retrieval queries for {len(questions)} questions; give one each"
            )
        run = self.start(document, questions, method, retrieval_queries, overrides, max_chunks=max_chunks)
        for _ in run.texts():
            pass
        return run.answers()

    def start(
        self,
        document: Document,
        questions: Sequence[str],
        method: str,
        retrieval_queries: Sequence[str] | None,
        overrides: dict[str, Any],
        *,
        max_chunks: int | None = None,
    ) -> Run:
        """What `ask_many` and `Document.stream` iterate over; see there."""
        speculation, sampling = apply_overrides(self.config.speculation, self.config.sampling, overrides)
        queries = retrieval_queries or questions
        return Run(self, document, questions, get_method(method), speculation, sampling, queries, max_chunks)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, of the packages that results depend on, and the device's kind."""
        packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "transformers", "faiss-cpu")}
        from rapid_jax import __version__

        device = jax.devices()[0]
        return {
            "rapid_jax": __version__,
            "python": platform.python_version(),
            **packages,
            "device": f"{device.platform}: {device.device_kind}",
        }


def _load_drafter(
    config: EngineConfig, path: Any, same: LanguageModel | None, mesh: Any, progress: Progress | None = None
) -> LanguageModel:
    """The drafter on its devices; `same` is the target where it drafts for itself, loaded again only if it must."""
    weights = config.drafter_weights or config.weights
    if config.drafter_mesh:
        mesh, same = make_drafter_mesh(config), None
    elif same is not None and weights == config.weights:
        return same
    model = models.load(
        path,
        dtype=config.dtype or None,
        mesh=mesh,
        quantize=weights,
        backend=config.attention or None,
        progress=progress,
    )
    return model if same is None else dataclasses.replace(model, params=_sharing(model.params, same.params))


def _sharing(params: dict, target: dict) -> dict:
    """A copy's weights, with the target's own arrays where both are in one dtype: the embedding and the norms."""

    def one(name: str, own: Any) -> Any:
        if isinstance(own, dict):
            return _sharing(own, target[name])
        return target[name] if name in target and target[name].dtype == own.dtype else own

    return {name: one(name, own) for name, own in params.items()}


def make_drafter_mesh(config: EngineConfig) -> Mesh:
    """The drafter's own devices, those behind the target's.

    Raises:
      ValueError: there are too few.
    """
    used = math.prod(config.mesh)
    try:
        return sharding.make_mesh(config.drafter_mesh, jax.devices()[used:])
    except ValueError as error:
        raise ValueError(f"drafter_mesh, of the devices behind the target's {used}: {error}") from None


def check_checkpoints(paths: Sequence[str], config: EngineConfig) -> None:
    """Finds what is wrong with the target's and the drafters' checkpoints before any weights are read.

    Args:
      paths: directories or hub names, the target's first.
      config: whose meshes they are split over.

    Raises:
      ValueError, FileNotFoundError: as `Engine.load`.
    """
    devices = sharding.mesh_of(config.mesh)
    own = make_drafter_mesh(config) if config.drafter_mesh else devices
    directories = [hub.resolve(path) for path in paths]
    numbers = [checkpoint.read_config(directory) for directory in directories]
    for model, split in [(numbers[0], devices), *((model, own) for model in numbers[1:] or numbers)]:
        if split is not None:
            sharding.check_divides(model, split)
    target, *drafters = [load_tokenizer(directory) for directory in directories]
    for drafter in drafters:
        reason = same_vocabulary(target, drafter)
        if reason:
            raise ValueError(f"target and drafter need the same vocabulary: {reason}")


def apply_overrides(
    speculation: SpeculationConfig, sampling: SamplingConfig, overrides: dict[str, Any]
) -> tuple[SpeculationConfig, SamplingConfig]:
    """Both configs with some fields replaced.

    Raises:
      ValueError: a name that is a field of neither, or a bad value.
    """
    ours = {field.name for field in dataclasses.fields(speculation)}
    theirs = {field.name for field in dataclasses.fields(sampling)}
    unknown = sorted(set(overrides) - ours - theirs)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(ours | theirs))}")
    return (
        dataclasses.replace(speculation, **{k: v for k, v in overrides.items() if k in ours}),
        dataclasses.replace(sampling, **{k: v for k, v in overrides.items() if k in theirs}),
    )
