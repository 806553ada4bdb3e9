"""A document that an engine has read, to be asked many questions."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax

from models.cache import ContextCache
from models.language_model import LanguageModel
from models.progress import ProgressCallback
from rapid_jax.config.overrides import Overrides
from rapid_jax.copying.drafter import CopiedBefore
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.arguments import check_optional_text, check_path, check_text, check_texts, check_turns
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.on_disk import document_key, open_document, save_document
from rapid_jax.engine.prompt import Conversation, Prompt, Templates, TokenizedDocument
from rapid_jax.engine.request import Request
from rapid_jax.engine.run import Run
from rapid_jax.engine.session import Session
from rapid_jax.engine.stream import Stream
from rapid_jax.hierarchy.row_databases import LearnedNgrams
from rapid_jax.retrieval import IndexedDocument, KnownIndex, Passage
from rapid_jax.saving.store import DocumentStore


class Document:
    """A document that an engine has read. Make it with `Engine.read`.

    Attributes:
      text: as given.
      tokenized: as the target reads it, truncated to the limit.
      head: tokens before the document.
      prompt: makes a model's prompt around the document.
      passages_prompt: makes a model's prompt around passages of the document.
      index_seconds: time that chunking and embedding took; 0 before it.
      earlier: what an earlier turn of a conversation has taught the n-gram databases, or None.
      remembered: what the last answer to a conversation has taught them; None before it.
      templates: user messages around the document and around its passages, and what the chat template is given; None
        for a conversation.
      reading_seconds: what reading it took before it was saved; None for one that was not opened from disk.
    """

    def __init__(
        self,
        session: Session,
        text: str,
        tokenized: TokenizedDocument,
        prompt: Callable[[LanguageModel], Prompt | Conversation],
        progress: ProgressCallback | None = None,
        earlier: LearnedNgrams | None = None,
        passages_prompt: Callable[[LanguageModel], Prompt | Conversation] | None = None,
        templates: Templates | None = None,
    ):
        self.text = text
        self.tokenized = tokenized
        self.prompt = prompt
        self.passages_prompt = passages_prompt or prompt
        self.templates = templates
        self.reading_seconds: float | None = None
        self.head = prompt(session.target).head()
        self.index_seconds = 0.0
        self.earlier = earlier
        self.remembered: LearnedNgrams | None = None
        self._copied_before = CopiedBefore()
        self._session = session
        self._original: Document | None = None
        self._root: Document | None = None
        self._retrieve_from: str | None = None
        self._progress = progress
        self._known_index: KnownIndex | None = None

    @classmethod
    def under(
        cls,
        session: Session,
        text: str,
        tokenized: TokenizedDocument,
        templates: Templates,
        progress: ProgressCallback | None = None,
    ) -> Document:
        """A document in the prompts that templates make."""
        return cls(
            session,
            text,
            tokenized,
            functools.partial(templates.prompt, templates.document, ()),
            progress,
            passages_prompt=functools.partial(templates.prompt, templates.passages, ()),
            templates=templates,
        )

    def __repr__(self) -> str:
        kind = "conversation" if self.is_conversation else "document"
        read = "read" if self.is_read else "not read yet"
        return f"<Document: a {kind} of {self.num_tokens:,} tokens, {read}>"

    @property
    def token_ids(self) -> list[int]:
        """The context: what precedes the document, and the document."""
        return [*self.head, *self.tokenized.tokens]

    @property
    def num_tokens(self) -> int:
        """Tokens of the context."""
        return len(self.head) + len(self.tokenized.tokens)

    @property
    def is_conversation(self) -> bool:
        """Whether there is nothing but messages: no document, nothing to retrieve from."""
        return not self.tokenized.tokens

    @property
    def root(self) -> Document:
        """The document itself: of one with earlier turns (`after`), the one without."""
        return self._root or self

    @property
    def has_turns(self) -> bool:
        """Whether it stands behind earlier turns (`after`)."""
        return self._root is not None

    @property
    def copied_before(self) -> CopiedBefore:
        """What the answers so far have left to be copied by later ones."""
        return self.root._copied_before

    @copied_before.setter
    def copied_before(self, copied: CopiedBefore) -> None:
        self.root._copied_before = copied

    @functools.cached_property
    def prefilled(self) -> PrefilledContext:
        """What the target has read; computed on first use, shared by all questions."""
        if self._original is not None:
            return self._original.prefilled
        session = self._session
        with session.lock:
            session.together.clear()  # documents that were read together last: their memory may be needed
            return self._read()

    def _read(self) -> PrefilledContext:
        return self._session.prefill(self._session.target, [self.token_ids], self._progress)

    @property
    def is_read(self) -> bool:
        """Whether the target holds what it has read."""
        return "prefilled" in self.__dict__ or (self._original is not None and self._original.is_read)

    def read_once(self) -> PrefilledContext:
        """As `prefilled`, but what is read for it is not kept for later questions."""
        return self.prefilled if self.is_read else self._read()

    def rehearsed_in(self, session: Session, prefilled: PrefilledContext) -> Document:
        """A view for another session with the same models, where the target has read something else in its place."""
        view = copy.copy(self)
        view._session, view._original, view._root = session, None, None
        view._copied_before = self.copied_before
        view.__dict__["prefilled"] = prefilled
        if self.is_indexed:
            view.__dict__["index"] = self.index
        return view

    def unread(self) -> Document:
        """The same document without what the target has read, whose memory is free once nobody else holds it."""
        view = copy.copy(self)
        view.__dict__.pop("prefilled", None)
        return view

    @property
    def context(self) -> ContextCache:
        """The target's frozen context cache; computed on first use."""
        return self.prefilled.cache

    @property
    def prefill_seconds(self) -> float:
        """Time the prefill took, compilation excluded, or opening what was saved; 0 before either."""
        return self.prefilled.seconds if self.is_read else 0.0

    def read_by(self, target: LanguageModel) -> bool:
        """Whether it is this model that has read it, or will read it."""
        return self._session.target is target

    def retrieving_from(self, text: str) -> Document:
        """The same document in the same cache, with passages of another text: what unrelated retrieval does.

        Raises:
          ValueError: the text is no string.
        """
        check_text("text", text)
        view = copy.copy(self)
        view._original = self  # which reads, once for both
        view.__dict__.pop("index", None)
        view._retrieve_from = text
        view._root = None
        return view

    def after(self, messages: Sequence[Mapping[str, str]]) -> Document:
        """The same document in the same cache behind earlier turns, which follow-up questions see.

        Args:
          messages: {"role", "content"} of each turn: a question about the document, its answer, and so on; questions
            are a "user"'s, answers an "assistant"'s. They take the place of turns that were there before.

        Raises:
          ValueError: other roles or another order, a conversation, or an argument of a wrong type.
        """
        check_turns(messages)
        if self.templates is None:
            raise ValueError("earlier turns go with a document: give a conversation all its messages (Engine.converse)")
        if not messages:
            return self.root
        templates, history = self.templates, tuple((turn["role"], turn["content"]) for turn in messages)
        view = copy.copy(self)
        view._root, view._original = self.root, self._original or self
        view.prompt = functools.partial(templates.prompt, templates.document, history)
        view.passages_prompt = functools.partial(templates.prompt, templates.passages, history)
        view.__dict__.pop("prefilled", None)
        return view

    def in_source(self, passage: Passage) -> Passage:
        """The passage with offsets into the text that was given to `Engine.read`."""
        if self._retrieve_from is not None or not self._session.config.retrieval.from_truncated:
            return passage
        return self.tokenized.in_source(passage)

    @functools.cached_property
    def index(self) -> IndexedDocument:
        """The chunks that passages come from and their embeddings; computed on first use, shared by all questions."""
        if self._root is not None:
            return self._root.index
        text = self._retrieve_from
        if text is None:
            text = self.tokenized.text if self._session.config.retrieval.from_truncated else self.text
        retriever = self._session.retriever
        start = time.perf_counter()
        known = self._known_index if self._retrieve_from is None else None
        index = retriever.index(text, truncated_tokens=len(self.tokenized.tokens), known=known)
        self.index_seconds = time.perf_counter() - start
        return index

    @property
    def is_indexed(self) -> bool:
        """Whether its chunks have been embedded."""
        return "index" in self.root.__dict__

    def holds(self, prefilled: PrefilledContext, index: KnownIndex | None = None) -> None:
        """Takes what the target has read, and the chunks' vectors, from elsewhere."""
        self.__dict__["prefilled"], self._known_index = prefilled, index

    def save(self, path: str | Path) -> int:
        """Writes the document to disk, to be opened by `Engine.open` in the place of being read.

        What the target has read is kept as it lies in memory, with the index of its chunks, if there is one, and what
        earlier answers have left. Whoever opens it later needs the same weights, tokenizer and formats, on any mesh.
        Earlier turns (`after`) are not saved.

        Args:
          path: a directory; a document that was saved there before is replaced.

        Returns:
          Bytes on disk.

        Raises:
          ValueError: a conversation, a view with other passages, or a directory with something else in it.
          OSError: a full disk, or a directory that cannot be written to; one line that names it.
        """
        check_path("path", path)
        if self.templates is None or self._retrieve_from is not None:
            kind = "a conversation" if self.templates is None else "a view with passages of another text"
            raise ValueError(f"{kind} cannot be saved: save a document that Engine.read gave")
        return save_document(self._session, self.root, Path(path))

    @property
    def key(self) -> str:
        """What a document that is read alike, by the same weights in the same formats, is found by in a store.

        Raises:
          ValueError: a conversation.
        """
        if self.templates is None:
            raise ValueError("a conversation has no key: only documents are kept")
        return document_key(self._session, self)

    def keep(self, store: DocumentStore) -> bool:
        """Saves what has been read into a store, which may push others out of it.

        Returns:
          Whether it is there now: not where nothing has been read, or where it is too large for the store.

        Raises:
          ValueError: a conversation.
          OSError: as `save`.
        """
        if not self.is_read or not store.has_room(sum(x.nbytes for x in jax.tree.leaves(self.context))):
            return False
        key = self.key
        if store.find(key) is None:
            self.save(store.place(key))
            store.trim()
        return True

    @classmethod
    def opened(cls, session: Session, path: Path) -> Document:
        """A document that `save` wrote, for `Engine.open`."""
        return open_document(session, path)

    def ask(
        self,
        question: str,
        method: str = "rapid",
        *,
        retrieval_query: str | None = None,
        **overrides: Unpack[Overrides],
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
        return self.stream(question, method, retrieval_query=retrieval_query, **overrides).read()

    def stream(
        self,
        question: str,
        method: str = "rapid",
        *,
        retrieval_query: str | None = None,
        **overrides: Unpack[Overrides],
    ) -> Stream:
        """As `ask`, piece by piece: iterate over the result for text, then read its `answer`."""
        check_text("question", question)
        check_optional_text("retrieval_query", retrieval_query)
        queries = None if retrieval_query is None else [retrieval_query]
        return self.answering(self.request([question], method, queries, overrides))

    def answering(self, request: Request) -> Stream:
        """The stream of a request with one question."""
        return Stream(Run(self._session, request))

    def request(
        self,
        questions: Sequence[str],
        method: str,
        retrieval_queries: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        max_chunks: int | None = None,
    ) -> Request:
        """Questions about this document with the session's settings.

        Args:
          questions: one a row.
          method: a name in METHODS.
          retrieval_queries: what to retrieve with for each row; None takes the questions.
          overrides: fields of SpeculationConfig and SamplingConfig.
          max_chunks: chunks to retrieve; None takes what the config says.

        Raises:
          ValueError: an unknown method, a bad override.
        """
        check_texts("questions", questions, "question")
        asked = [(self, question) for question in questions]
        return Request.of(self._session.config, asked, method, retrieval_queries, overrides, max_chunks)
