"""From a conversation to what is read once and what is asked: a long first message is a document.

A prompt is a document, a blank line and a question. So a long message is parted at its last blank line, and the parts
joined are the message again, token for token. Whoever asks something else about the same text then shares its prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from rapid_jax.serving.asked import Message
from rapid_jax.serving.errors import ApiError

BLANK_LINE = "\n\n"
TEMPLATE = "{document}" + BLANK_LINE + "{question}"  # of documents that stood in messages


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation about a document.

    Attributes:
      text: of a document that stood in the messages; None where it has a name or there is none.
      earlier: turns behind the document and before the question: user, assistant, and so on.
      question: the last message of the user.
    """

    text: str | None
    earlier: tuple[Message, ...]
    question: str


def about_document(messages: Sequence[Message]) -> Conversation:
    """A conversation about a document that it names: a system message stands before the first question.

    Raises:
      ApiError: turns of the user and the assistant that cannot be made to alternate.
    """
    system, turns = _parted(messages)
    return _conversation(None, system, turns)


def with_document(messages: Sequence[Message], is_long: Callable[[str], bool]) -> Conversation | None:
    """A conversation whose first message holds a document; None where none is long enough.

    Args:
      messages: the last of the user.
      is_long: whether a text is long enough to be a document.

    Raises:
      ApiError: as `about_document`.
    """
    system, turns = _parted(messages)
    if system and is_long(system):
        return _conversation(system, "", turns)
    first = turns[0]["content"].rstrip()
    text, blank, question = first.rpartition(BLANK_LINE)
    if not blank or not text.strip() or not question.strip() or is_long(question) or not is_long(text):
        return None
    return _conversation(text, system, [{"role": "user", "content": question}, *turns[1:]])


def _parted(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The text of a system message, and the turns behind it, those of one role in a row joined."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns: list[Message] = []
    for message in messages[1 if messages[0]["role"] == "system" else 0 :]:
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1] = {**message, "content": turns[-1]["content"] + BLANK_LINE + message["content"]}
        else:
            turns.append(dict(message))
    if not turns or turns[0]["role"] != "user":
        raise ApiError(400, "the first message behind a system message must be one of the user", param="messages")
    return system, turns


def _conversation(text: str | None, system: str, turns: list[Message]) -> Conversation:
    if system.strip():
        first = system.rstrip() + BLANK_LINE + turns[0]["content"]
        turns = [{"role": "user", "content": first}, *turns[1:]]
    return Conversation(text, tuple(turns[:-1]), turns[-1]["content"])
