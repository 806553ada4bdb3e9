"""A document that an engine has read, to be asked many questions."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from models.cache import ContextCache
from rapid_jax.decoding.prefill import Progress
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.prompt import Conversation, Prompt, TokenizedDocument
from rapid_jax.engine.reading import read_context
from rapid_jax.hierarchy.memory import Remembered
from rapid_jax.retrieval import IndexedDocument, Passage

if TYPE_CHECKING:
    from rapid_jax.engine.engine import Engine
    from rapid_jax.engine.run import Run


class Document:
    """A document that an engine has read. Make it with `Engine.read`.

    Attributes:
      text: as given.
      tokenized: as the target reads it, truncated to the limit.
      head: tokens before the document.
      prompt: makes a model's prompt around the document.
      passages_prompt: makes a model's prompt around passages of the document.
      prefill_seconds: time the prefill took, compilation excluded; 0 before it.
      index_seconds: time that chunking and embedding took; 0 before it.
      earlier: what an earlier turn of a conversation has taught the n-gram databases, or None.
      remembered: what the last answer to a conversation has taught them; None before it.
    """

    def __init__(
        self,
        engine: Engine,
        text: str,
        tokenized: TokenizedDocument,
        prompt: Callable[[Any], Prompt | Conversation],
        progress: Progress | None = None,
        earlier: Remembered | None = None,
        passages_prompt: Callable[[Any], Prompt | Conversation] | None = None,
    ):
        self.text = text
        self.tokenized = tokenized
        self.prompt = prompt
        self.passages_prompt = passages_prompt or prompt
        self.head = prompt(engine.target).head()
        self.prefill_seconds = 0.0
        self.index_seconds = 0.0
        self.earlier = earlier
        self.remembered: Remembered | None = None
        self._engine = engine
        self._retrieve_from: str | None = None
        self._progress = progress

    @property
    def num_tokens(self) -> int:
        """Tokens of the context: what precedes the document, and the document."""
        return len(self.head) + len(self.tokenized.tokens)

    @property
    def is_conversation(self) -> bool:
        """Whether there is nothing but messages: no document, nothing to retrieve from."""
        return not self.tokenized.tokens

    @functools.cached_property
    def context(self) -> ContextCache:
        """The target's frozen context cache; computed on first use, shared by all questions."""
        engine = self._engine
        read = read_context(engine, engine.target, [self.head + self.tokenized.tokens], self._progress)
        self.prefill_seconds = read.seconds
        return read.cache

    def retrieving_from(self, text: str) -> Document:
        """The same document in the same cache, with passages of another text: what unrelated retrieval does."""
        self.context  # noqa: B018  (computed once, for both)
        view = copy.copy(self)
        view.__dict__.pop("index", None)
        view._retrieve_from = text
        return view

    def in_source(self, passage: Passage) -> Passage:
        """The passage with offsets into the text that was given to `Engine.read`."""
        if self._retrieve_from is not None or not self._engine.config.retrieval.from_truncated:
            return passage
        return self.tokenized.in_source(passage)

    @functools.cached_property
    def index(self) -> IndexedDocument:
        """The chunks that passages come from and their embeddings; computed on first use, shared by all questions."""
        text = self._retrieve_from
        if text is None:
            text = self.tokenized.text if self._engine.config.retrieval.from_truncated else self.text
        retriever = self._engine.retriever
        start = time.perf_counter()
        index = retriever.index(text)
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
        return Stream(self._engine.start(self, [question], method, queries, overrides))


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
