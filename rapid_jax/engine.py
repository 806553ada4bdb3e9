"""The Engine: load models once, read a document once, ask it many questions."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import logging

import models
from models import checkpoint, hub, sharding
from models.cache import ContextCache
from models.tokenizer import load_tokenizer, same_vocabulary
from rapid_jax import assets
from rapid_jax.answer import Answer
from rapid_jax.config import EngineConfig, SamplingConfig, SpeculationConfig
from rapid_jax.decoding.prefill import Progress, prefill_context
from rapid_jax.decoding.programs import Programs
from rapid_jax.methods import get_method
from rapid_jax.prompt import Prompt, TokenizedDocument, tokenize_document
from rapid_jax.retrieval import IndexedDocument, Retriever, make_embedder
from rapid_jax.run import Run
from rapid_jax.timing import timed

QUESTION_RESERVE = 512  # tokens kept free for a question when a document is cut to the model's context length


class Engine:
    """A target, a drafter, a retriever and their compiled programs. Make it with `Engine.load`.

    Attributes:
      config: see EngineConfig.
      target, drafter: language models; the same object in self-speculation, so that no weight is held twice.
      mesh: devices, or None for a single one.
      programs: what has been compiled.
      retriever: makes retrieved contexts.
      load_seconds: time spent in loading.
    """

    def __init__(self, config: EngineConfig, target: Any, drafter: Any, mesh: Any, load_seconds: float):
        self.config = config
        self.target = target
        self.drafter = drafter
        self.mesh = mesh
        self.load_seconds = load_seconds
        self.programs = Programs()

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
        mesh = sharding.make_mesh(config.mesh) if config.mesh != (1, 1, 1) else None
        load = functools.partial(models.load, dtype=config.dtype or None, mesh=mesh, progress=progress)
        paths = [config.target or assets.model_path()]
        if config.drafter and config.drafter != config.target:
            paths.append(config.drafter)
        _check_checkpoints(paths, mesh)
        loaded = [load(path) for path in paths]
        return cls(config, loaded[0], loaded[-1], mesh, time.perf_counter() - start)

    @functools.cached_property
    def retriever(self) -> Retriever:
        """Made when first needed, because a sentence encoder takes time to load."""
        retrieval = self.config.retrieval
        return Retriever(self.target.tokenizer.hf, make_embedder(retrieval.embedder), retrieval)

    def read(self, text: str, *, prefill: bool = True, progress: Progress | None = None) -> Document:
        """Tokenises a document and reads it into the target's context cache.

        Args:
          text: the document.
          prefill: read it now; otherwise when a method first needs it (retrieval alone never does).
          progress: called with (tokens read, tokens in all) after every chunk.

        Raises:
          ValueError: the document is empty, or too long where truncation is "error".
        """
        prompt = Prompt(self.target.tokenizer, self.config.prompt)
        head = prompt.head()
        config = self.config
        reserve = QUESTION_RESERVE + config.sampling.max_new_tokens + config.speculation.gamma + 1
        free = self.target.config.max_position - len(head) - reserve
        limit = min(config.max_context_tokens or free, free)
        if limit < 1:
            raise ValueError(
                f"the model's context of {self.target.config.max_position} tokens leaves no room for a document beside "
                f"{config.sampling.max_new_tokens} new tokens; ask for fewer new tokens"
            )
        tokenized = tokenize_document(self.target.tokenizer, text, limit, config.truncation)
        if tokenized.truncated_tokens:
            logging.warning(
                "the document has %d tokens, the limit is %d: %d tokens of its middle are left out",
                len(tokenized.tokens) + tokenized.truncated_tokens,
                limit,
                tokenized.truncated_tokens,
            )
        document = Document(self, text, tokenized, head, progress)
        if prefill:
            document.context  # noqa: B018  (computed on first use)
        return document

    def ask_many(
        self,
        document: Document,
        questions: Sequence[str],
        method: str = "rapid",
        *,
        retrieval_queries: Sequence[str] | None = None,
        **overrides: Any,
    ) -> list[Answer]:
        """Answers several questions about one document in one batch; its cache is read once for all of them.

        Args:
          document: from `read`.
          questions: one a row.
          method: a name in METHODS.
          retrieval_queries: what to retrieve with for each row, such as the question without its choices; None takes
            the questions.
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
        run = self._start(document, questions, method, retrieval_queries, overrides)
        for _ in run.texts():
            pass
        return run.answers()

    def _start(
        self,
        document: Document,
        questions: Sequence[str],
        method: str,
        retrieval_queries: Sequence[str] | None,
        overrides: dict[str, Any],
    ) -> Run:
        speculation, sampling = apply_overrides(self.config.speculation, self.config.sampling, overrides)
        return Run(self, document, questions, get_method(method), speculation, sampling, retrieval_queries or questions)

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


def _check_checkpoints(paths: Sequence[str], mesh: Any) -> None:
    """Finds what is wrong with the target's and the drafter's checkpoint before any weights are read."""
    directories = [hub.resolve(path) for path in paths]
    for directory in directories:
        config = checkpoint.read_config(directory)
        if mesh is not None:
            sharding.check_divides(config, mesh)
    target, *drafters = [load_tokenizer(directory) for directory in directories]
    for drafter in drafters:
        reason = same_vocabulary(target, drafter)
        if reason:
            raise ValueError(f"target and drafter need the same vocabulary: {reason}")


class Document:
    """A document that an engine has read. Make it with `Engine.read`.

    Attributes:
      text: as given.
      tokenized: as the target reads it, truncated to the limit.
      head: tokens before the document.
      prefill_seconds: time the prefill took, compilation excluded; 0 before it.
      index_seconds: time that chunking and embedding took; 0 before it.
    """

    def __init__(
        self, engine: Engine, text: str, tokenized: TokenizedDocument, head: list[int], progress: Progress | None
    ):
        self.text = text
        self.tokenized = tokenized
        self.head = head
        self.prefill_seconds = 0.0
        self.index_seconds = 0.0
        self._engine = engine
        self._progress = progress

    @property
    def num_tokens(self) -> int:
        """Tokens of the context: what precedes the document, and the document."""
        return len(self.head) + len(self.tokenized.tokens)

    @functools.cached_property
    def context(self) -> ContextCache:
        """The target's frozen context cache; computed on first use, shared by all questions."""
        engine = self._engine
        context, self.prefill_seconds = timed(
            engine.programs,
            lambda: prefill_context(
                engine.programs,
                engine.target.decoder,
                engine.target.params,
                [self.head + self.tokenized.tokens],
                chunk=engine.config.prefill_chunk,
                dtype=engine.target.decoder.dtype,
                mesh=engine.mesh,
                progress=self._progress,
            ),
        )
        return context

    @functools.cached_property
    def index(self) -> IndexedDocument:
        """The document's chunks and their embeddings; computed on first use, shared by all questions."""
        whole = not self._engine.config.retrieval.from_truncated
        retriever = self._engine.retriever
        start = time.perf_counter()
        index = retriever.index(self.text if whole else self.tokenized.text)
        self.index_seconds = time.perf_counter() - start
        return index

    def ask(
        self, question: str, method: str = "rapid", *, retrieval_query: str | None = None, **overrides: Any
    ) -> Answer:
        """Answers a question.

        Args:
          question: with answer choices, if there are any.
          method: a name in METHODS.
          retrieval_query: what to retrieve with, the question without its choices; None takes the question.
          **overrides: fields of SpeculationConfig and SamplingConfig for this call, such as eta or max_new_tokens.

        Raises:
          ValueError: an empty question, an unknown method, a bad override, or no room left in the context.
        """
        stream = self.stream(question, method, retrieval_query=retrieval_query, **overrides)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self, question: str, method: str = "rapid", *, retrieval_query: str | None = None, **overrides: Any
    ) -> Stream:
        """As `ask`, piece by piece: iterate over the result for text, then read its `answer`."""
        queries = None if retrieval_query is None else [retrieval_query]
        return Stream(self._engine._start(self, [question], method, queries, overrides))


class Stream:
    """Iterates over the pieces of an answer's text as they are decoded, once; `answer` is there at the end."""

    def __init__(self, run: Run):
        self._run = run
        self._pieces = run.texts()

    def __iter__(self) -> Iterator[str]:
        for (piece,) in self._pieces:
            if piece:
                yield piece

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
          RuntimeError: the stream has not been read to its end.
        """
        return self._run.answers()[0]


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
