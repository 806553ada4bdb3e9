"""A conversation about a document: follow-up questions see earlier turns, which the target does not read again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Unpack

from rapid_jax.config.overrides import Overrides
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.arguments import check_kind, check_text
from rapid_jax.engine.contexts import KeptTail
from rapid_jax.engine.document import Document
from rapid_jax.engine.stream import Stream


class Chat:
    """Questions about a document, one after another.

    The keys and values of what was asked and answered so far stay on the device. The next prompt is made anew, and its
    tokens are read from the first one that differs: where the chat template shows earlier answers as they were
    generated, that is the end of the last answer. Methods that read the document profit, whichever came before.

    Args:
      document: as Engine.read or Engine.open gives it.
      messages: turns before the first question, as Document.after takes them.

    Raises:
      ValueError: as `Document.after`.
    """

    def __init__(self, document: Document, messages: Sequence[Mapping[str, str]] = ()):
        check_kind("document", document, Document, "Engine.read")
        self._document = document.after(messages)
        self._messages = [dict(message) for message in messages]
        self._tail = KeptTail()

    @property
    def document(self) -> Document:
        """What the conversation is about."""
        return self._document

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns so far: {"role", "content"} of each question and each answer."""
        return [dict(message) for message in self._messages]

    @property
    def reused_tokens(self) -> int:
        """Tokens behind the document that the last question did not have to read again."""
        return self._tail.reused

    def ask(self, question: str, method: str = "rapid", **overrides: Unpack[Overrides]) -> Answer:
        """Answers a question that may refer to earlier ones; arguments and errors as `Document.ask`."""
        return self.stream(question, method, **overrides).read()

    def stream(self, question: str, method: str = "rapid", **overrides: Unpack[Overrides]) -> Stream:
        """As `ask`, piece by piece. The turn counts once the stream has been read to its end, unless it has no text.

        Passages are retrieved with the question and the one before it.
        """
        check_text("question", question)
        asked, self._tail.reused = self._document.after(self._messages), 0
        request = asked.request([question], method, [self._query(question)], overrides)

        def said(answer: Answer) -> None:
            if answer.text:
                turn = [("user", question), ("assistant", answer.text)]
                self._messages += [dict(role=role, content=content) for role, content in turn]

        stream = asked.answering(dataclasses.replace(request, kept=self._tail))
        stream.then(said)
        return stream

    def _query(self, question: str) -> str:
        """What passages are retrieved with: a follow-up may not name what it is about, the question before it does."""
        asked = [turn["content"] for turn in self._messages if turn["role"] == "user"]
        return "\n".join([*asked[-1:], question])

    def forget(self) -> None:
        """Starts anew: the next question sees the document alone."""
        self._messages.clear()
