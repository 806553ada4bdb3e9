"""From what a client asks to what the engine answers: which document, which question, with whom it may be decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

from rapid_jax.config import Method, get_method
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.seats import Room
from rapid_jax.engine.document import Document
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.plain_prompt import plain_prompt
from rapid_jax.engine.request import Request, check_request
from rapid_jax.serving.asked import Asked
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.jobs import Job
from rapid_jax.serving.library import Held, Library
from rapid_jax.serving.reading import Conversation, about_document, with_document

_LEAST_QUESTION, _LEAST_ANSWER = 256, 256  # tokens of the smallest seats: most requests fit


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A job whose question is known; nothing has been read for it yet.

    Attributes:
      job: see there.
      held: the document that is kept; None for a conversation or a text of its own.
      document: gives what the request is about, with the earlier turns of its conversation.
      question: the last message.
      question_tokens: of the question and the start of the answer.
      new_tokens: of the answer, at most.
      method: that answers.
      key: requests with equal keys may be decoded together.
      joins: whether it can join while others are decoded.
    """

    job: Job
    held: Held | None
    document: Callable[[], Document]
    question: str
    question_tokens: int
    new_tokens: int
    method: Method
    key: Hashable
    joins: bool

    @property
    def room(self) -> Room:
        """Seats that it fits, and most others."""
        new = token_bucket(self.new_tokens, minimum=_LEAST_ANSWER)
        return Room(token_bucket(max(self.question_tokens, _LEAST_QUESTION) + new) - new, new)  # all of the tail

    def request(self) -> Request:
        """The request as the engine takes it, about the document as it lies in memory just now."""
        asked = self.job.work
        assert isinstance(asked, Asked)
        return self.document().request([self.question], asked.method, None, asked.overrides)


def plan(engine: Engine, library: Library, job: Job, document_tokens: int) -> Plan:
    """Finds document and question of a job, and checks all that can be checked before anything is read.

    Args:
      engine: that will answer.
      library: its documents.
      job: a request for an answer.
      document_tokens: from which on a text in a message is a document.

    Raises:
      ApiError: no such document, or messages that cannot be asked.
      ValueError, FileNotFoundError: as `engine.request.check_request`.
    """
    asked = job.work
    assert isinstance(asked, Asked)
    held, document, question = _what(engine, library, asked, document_tokens)
    about = document()
    request = about.request([question], asked.method, None, asked.overrides)
    check_request(engine.session, request)
    joins = held is not None and not request.method.retrieves
    sampling, read = request.sampling, None if held is None else held.id
    if joins:  # budget, key and stop strings are each row's own
        sampling = dataclasses.replace(sampling, max_new_tokens=1, seed=0, stop=())
    key: tuple[Hashable, ...] = (read, request.method.name, request.speculation, sampling)
    if not joins and (held is None or about is not held.document or sampling.temperature):
        key = (id(job), *key)  # alone: a context of its own, or random numbers that depend on the row
    return Plan(
        job=job,
        held=held,
        document=document,
        question=question,
        question_tokens=len(about.prompt(engine.target).question(request.questions[0])),
        new_tokens=request.sampling.max_new_tokens,
        method=request.method,
        key=key,
        joins=joins,
    )


def _what(
    engine: Engine, library: Library, asked: Asked, document_tokens: int
) -> tuple[Held | None, Callable[[], Document], str]:
    """(The document that is kept, what gives the document to ask, the question)."""
    if not asked.chat:
        if asked.document:
            held = library.get(asked.document)
            return held, lambda: held.document, asked.prompt
        text = plain_prompt(engine.session, asked.prompt)
        return None, lambda: text, asked.prompt
    if asked.document:
        return _about(library.get(asked.document), about_document(asked.messages))

    def is_long(text: str) -> bool:
        if library.knows(text):
            return True
        few = len(text) < document_tokens  # characters: hardly a token has less than one
        return not few and len(engine.target.tokenizer.encode(text)) >= document_tokens

    found = with_document(asked.messages, is_long)
    if found is not None and found.text is not None:
        return _about(library.of_message(found.text), found)
    if get_method(asked.method).retrieves:
        raise ApiError(
            400,
            f"method {asked.method} retrieves, and the messages hold no document of {document_tokens} tokens: name an "
            "uploaded one, or ask another method such as auto",
            param="method",
        )
    conversation = engine.converse(asked.messages)
    return None, lambda: conversation, asked.messages[-1]["content"]


def _about(held: Held, told: Conversation) -> tuple[Held, Callable[[], Document], str]:
    earlier: Sequence[dict[str, str]] = told.earlier

    def document() -> Document:
        return held.document.after(list(earlier)) if earlier else held.document

    return held, document, told.question
