"""The Engine: load models once, read a document once, ask it many questions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from absl import logging

from models.language_model import LanguageModel
from models.progress import ProgressCallback
from models.tokenizer import clean_text
from rapid_jax.config import METHODS, EngineConfig, Method, get_method
from rapid_jax.config.chat import check_keep, check_prompt_template
from rapid_jax.config.overrides import Overrides
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.arguments import (
    check_flag,
    check_kind,
    check_messages,
    check_methods,
    check_optional_text,
    check_pairs,
    check_path,
    check_progress,
    check_text,
    check_texts,
)
from rapid_jax.engine.document import Document
from rapid_jax.engine.loading import load_session, with_drafter
from rapid_jax.engine.prompt import Conversation, Prompt, Templates, TokenizedDocument, chat_for, tokenize_document
from rapid_jax.engine.rehearsal import rehearse
from rapid_jax.engine.request import Request, longest_draft
from rapid_jax.engine.run import Run
from rapid_jax.engine.session import Session
from rapid_jax.saving.store import DocumentStore

QUESTION_RESERVE = 512  # tokens kept free for a question when a document is cut to the model's context length


class Engine:
    """A target, a drafter, a retriever and their compiled programs. Make it with `Engine.load`.

    Args:
      session: models, programs and all that outlives a batch of questions.
    """

    def __init__(self, session: Session):
        check_kind("session", session, Session, "Engine.load(path).session")
        self._session = session

    def __repr__(self) -> str:
        target, drafter = self.target, self.drafter
        drafts = "itself" if drafter.path == target.path else drafter
        return f"<Engine: {target} drafted for by {drafts}>"

    @classmethod
    def load(
        cls,
        target: str | None = None,
        drafter: str | None = None,
        config: EngineConfig | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Loads the models.

        Args:
          target: directory, GGUF file, package:NAME or hub name; overrides config.target. Neither: the embedded model.
          drafter: the same for the drafter; neither means the target's own parameters (self-speculation).
          config: everything else.
          progress: called with (bytes read, bytes in all).

        Raises:
          ValueError: a checkpoint that cannot be used, vocabularies that differ, a mesh that does not divide the model,
            an argument of a wrong type.
          FileNotFoundError: no such checkpoint.
        """
        check_progress(progress)
        check_optional_text("target", target)
        check_optional_text("drafter", drafter)
        config = EngineConfig() if config is None else config
        check_kind("config", config, EngineConfig, "EngineConfig(...)")
        config = dataclasses.replace(
            config,
            target=config.target if target is None else target,
            drafter=config.drafter if drafter is None else drafter,
            chat=config.chat.dated(),
        )
        return cls(load_session(config, progress))

    def with_drafter(self, drafter: str) -> Engine:
        """An engine with the same target, in the same memory, and another drafter; it can ask this one's documents.

        Args:
          drafter: directory or hub name; "" is self-speculation.

        Raises:
          ValueError, FileNotFoundError: as `load`.
        """
        check_text("drafter", drafter)
        return Engine(with_drafter(self._session, drafter))

    @property
    def session(self) -> Session:
        """Models, programs and all that outlives a batch of questions."""
        return self._session

    @property
    def config(self) -> EngineConfig:
        """The settings that the engine was loaded with."""
        return self._session.config

    @property
    def target(self) -> LanguageModel:
        """The long-context model."""
        return self._session.target

    @property
    def drafter(self) -> LanguageModel:
        """The drafting model; the target itself in self-speculation."""
        return self._session.drafter

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, of the packages that results depend on, and the device's kind."""
        return self._session.versions

    def require(self, methods: Sequence[Method]) -> None:
        """Loads what methods need beside the models, so that what is missing is found before anything slow.

        Raises:
          ValueError, FileNotFoundError: an encoder or a database that is not there, or not for this tokenizer.
        """
        check_methods(methods)
        self._session.require(methods)

    def read(
        self,
        text: str,
        *,
        template: str | None = None,
        drafter_template: str | None = None,
        keep: tuple[int, int] | None = None,
        prefill: bool = True,
        progress: ProgressCallback | None = None,
        store: DocumentStore | None = None,
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
          store: a document that is kept there (`Document.keep`) is opened in the place of being read. One that is
            damaged is read again, and said.

        Raises:
          ValueError: the document is empty, or too long where truncation is "error"; an argument of a wrong type.
        """
        check_text("text", text)
        check_flag("prefill", prefill)
        check_progress(progress)
        template, chat = self.config.prompt if template is None else template, self.config.chat
        check_prompt_template(template, "template")
        passages_template = self.config.drafter_prompt if drafter_template is None else drafter_template
        passages_template = passages_template or template
        check_prompt_template(passages_template, "drafter_template")
        if keep is not None:
            check_keep(keep)
        text, prompt = clean_text(text), Prompt(self.target.tokenizer, template, chat)
        limit = self._document_limit(len(prompt.head()))
        tokenized = tokenize_document(
            prompt, text, (keep[0], keep[1]) if keep and sum(keep) <= limit else limit, self.config.truncation
        )
        if tokenized.truncated_tokens:
            logging.warning(
                "the document has %d tokens, the limit is %d: %d tokens of its middle are left out",
                len(tokenized.tokens) + tokenized.truncated_tokens,
                len(tokenized.tokens),
                tokenized.truncated_tokens,
            )
        templates = Templates(template, passages_template, chat)
        document = Document.under(self._session, text, tokenized, templates, progress)
        place = None if store is None else store.find(document.key)
        if store is not None and place is not None:
            try:
                return Document.opened(self._session, place)
            except (ValueError, FileNotFoundError) as error:
                logging.warning("a kept document is not used: %s", error)
                store.forget(document.key)
        if prefill:
            document.context  # noqa: B018  (computed on first use)
        return document

    def open(self, path: str | Path) -> Document:
        """A document that `Document.save` wrote: what the target has read is loaded, not computed.

        Args:
          path: its directory.

        Raises:
          FileNotFoundError: no saved document there.
          ValueError: one that another model, tokenizer or format has read, or a damaged one; one line.
        """
        check_path("path", path)
        document = Document.opened(self._session, Path(path))
        limit = self._document_limit(len(document.head))
        if len(document.tokenized.tokens) > limit:
            raise ValueError(
                f"{path} holds a document of {len(document.tokenized.tokens)} tokens, with these settings one may have "
                f"{limit}: set max_context_tokens higher, or sampling.max_new_tokens lower"
            )
        return document

    def converse(self, messages: Sequence[Mapping[str, str]], *, after: Document | None = None) -> Document:
        """A conversation as a document of its own, answered with document.ask(the last message); nothing to retrieve.

        Args:
          messages: {"role", "content"} of each turn, the last of the user.
          after: the same conversation one turn earlier, answered: methods that look drafts up go on with what it taught
            their databases, where they would begin with the messages alone.

        Raises:
          ValueError: no turn, a template that refuses it, more tokens than the model has room for, or an argument of a
            wrong type.
        """
        check_messages(messages)
        turns = [dict(message) for message in messages]  # of its own: the caller's list may grow with the conversation
        if after is not None:
            check_kind("after", after, Document, "Engine.converse")
            self._check_own("after", after)
            if not after.is_conversation:
                raise ValueError("after must be a conversation, as Engine.converse gives it, got a document")
        chat = self.config.chat
        head = Conversation(self.target.tokenizer, turns, chat).head()
        room = self._document_limit(0)
        if len(head) > room:
            raise ValueError(f"the conversation has {len(head) + 2} tokens, the model has room for {room + 2}")
        nothing = TokenizedDocument([], "", 0, 0, 0)
        return Document(
            self._session,
            "",
            nothing,
            lambda m: Conversation(m.tokenizer, turns, chat_for(m.tokenizer, chat)),
            earlier=None if after is None else after.remembered,
        )

    def _check_own(self, name: str, document: Document) -> None:
        """Raises ValueError for a document that another model has read: its keys and values are not this one's."""
        if not document.read_by(self.target):
            raise ValueError(f"{name} must be a document that this engine has read, got one of another engine's")

    def document_room(self) -> int:
        """Tokens that a document may have with the config's prompt, so that none of it is left out.

        Raises:
          ValueError: there is no room for a document; says what to change.
        """
        return self._document_limit(len(Prompt(self.target.tokenizer, self.config.prompt, self.config.chat).head()))

    def _document_limit(self, head: int) -> int:
        """Tokens that a document may have behind a head of so many tokens."""
        config = self._session.config
        drafts = (longest_draft(method, config.speculation, config) for method in METHODS.values())
        reserve = QUESTION_RESERVE + config.sampling.max_new_tokens + max(drafts) + 1
        free = self.target.config.max_position - head - reserve
        limit = min(config.max_context_tokens or free, free)
        if limit < 1:
            raise ValueError(
                f"the model's context of {self.target.config.max_position} tokens leaves no room for a document beside "
                f"{config.sampling.max_new_tokens} new tokens; ask for fewer new tokens"
            )
        return limit

    def compile(self, document: Document, question: str, methods: Sequence[str]) -> float:
        """Compiles what answering a question about a document needs, several programs at a time.

        Answers compile what is missing on their own, one program after another. What is compiled here serves every
        question of a like length about every document of a like length. Neither is read.

        Args:
          document: from `read`, also with prefill=False.
          question: as it will be asked.
          methods: names in METHODS.

        Returns:
          Seconds that it took.

        Raises:
          ValueError, FileNotFoundError: as `Document.ask`.
        """
        start = time.perf_counter()
        check_kind("document", document, Document, "Engine.read")
        self._check_own("document", document)
        check_text("question", question)
        check_texts("methods", methods, "method")
        rehearse(self._session, document, question, [get_method(name) for name in methods])
        return time.perf_counter() - start

    def ask_many(
        self,
        document: Document,
        questions: Sequence[str],
        method: str = "rapid",
        *,
        retrieval_queries: Sequence[str] | None = None,
        max_chunks: int | None = None,
        **overrides: Unpack[Overrides],
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
          ValueError: no question, an empty one, another number of queries, a document of another engine's, or a bad
            override.
        """
        check_kind("document", document, Document, "Engine.read")
        self._check_own("document", document)
        return self._answers(document.request(questions, method, retrieval_queries, overrides, max_chunks))

    def ask_batch(
        self,
        asked: Sequence[tuple[Document, str]],
        method: str = "rapid",
        *,
        retrieval_queries: Sequence[str] | None = None,
        max_chunks: int | None = None,
        **overrides: Unpack[Overrides],
    ) -> list[Answer]:
        """Answers questions about several documents in one batch, one a row; each row has a context cache of its own.

        A row's answer does not depend on the other rows. A greedy one is that of `document.ask`, token for token. A
        sampled one is that of the same row of any other batch with the same seed; row 0 is that of `document.ask`.
        Documents that have been read are copied; the others are read for this batch, and their own caches are not kept.
        Where all rows name the same document this is `ask_many`.

        Args:
          asked: a document from `read` or `converse` and a question, for each row; a document may come several times.
          method, retrieval_queries, max_chunks, **overrides: as `ask_many`.

        Raises:
          ValueError: no pair, as `ask_many`, or too little memory for so many contexts (models.memory.TooLittleMemory).
        """
        check_pairs(asked, Document)
        for row, (document, _) in enumerate(asked):
            self._check_own(f"the document of row {row}", document)
        return self._answers(Request.of(self.config, asked, method, retrieval_queries, overrides, max_chunks))

    def _answers(self, request: Request) -> list[Answer]:
        run = Run(self._session, request)
        for _ in run.texts():
            pass
        return run.answers()
