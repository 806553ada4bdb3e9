"""Checks of what users hand to the Engine: the wrong type ends in one line, not in the middle of the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.fields import shown
from rapid_jax.config import Method

_ROLES = ("system", "user", "assistant")


def check_text(name: str, value: Any) -> None:
    """Raises ValueError where a value is no string.

    Args:
      name: of the argument, for the message.
      value: that was given.
    """
    if not isinstance(value, str):
        hint = "; decode it first" if isinstance(value, bytes) else ""
        raise ValueError(f"{name} must be a string, got {shown(value)}{hint}")


def check_optional_text(name: str, value: Any) -> None:
    """As `check_text`; None is allowed."""
    if value is not None:
        check_text(name, value)


def check_path(name: str, value: Any) -> None:
    """Raises ValueError where a value is no path of a file or directory."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be a path, got {shown(value)}")


def check_kind(name: str, value: Any, kind: type, made_by: str) -> None:
    """Raises ValueError where a value is not an instance of a class.

    Args:
      name, value: of the argument.
      kind: the class.
      made_by: what gives such a value, for the message.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"{name} must be {article} {kind.__name__}, as {made_by} gives it, got {shown(value)}")


def check_texts(name: str, values: Any, what: str) -> None:
    """Raises ValueError where values are not a list of at least one string.

    Args:
      name, values: of the argument.
      what: one of them, for the message.
    """
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name} must be a list of at least one {what}, got {shown(values)}")
    for value in values:
        check_text(f"each of {name}", value)


def check_pairs(values: Any, kind: type) -> None:
    """Raises ValueError where values are not a list of at least one pair of a document and a question.

    Args:
      values: that were given.
      kind: the class of documents.
    """
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"a batch must be a list of at least one pair (document, question), got {shown(values)}")
    for row, pair in enumerate(values):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"row {row} of a batch must be a pair (document, question), got {shown(pair)}")
        check_kind(f"the document of row {row}", pair[0], kind, "Engine.read")
        check_text(f"the question of row {row}", pair[1])


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError where a value is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")


def check_progress(value: Any) -> None:
    """Raises ValueError where a value is neither None nor something to call."""
    if value is not None and not callable(value):
        raise ValueError(f"progress must be a function of (done, all) or None, got {shown(value)}")


def check_methods(values: Any) -> None:
    """Raises ValueError where values are not a list of methods."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, Method) for value in values):
        raise ValueError(f"methods must be a list of Method, as get_method gives them, got {shown(values)}")


def check_messages(messages: Any) -> None:
    """Raises ValueError where messages are not turns of a role and a text, the last one of the user."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise ValueError(f"messages must be a list of at least one turn, got {shown(messages)}")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"a message must have a role and a content, got {shown(message)}")
        check_text("the role of a message", message["role"])
        check_text("the content of a message", message["content"])
        if message["role"] not in _ROLES:
            raise ValueError(f"the role of a message must be one of {', '.join(_ROLES)}, got {shown(message['role'])}")
    if messages[-1]["role"] != "user":
        raise ValueError("a conversation must end with a message of the user")


def check_turns(messages: Any) -> None:
    """Raises ValueError where messages are not questions of the user, each with the assistant's answer behind it."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ValueError(f"messages must be a list of turns, got {shown(messages)}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"a message must have a role and a content, got {shown(message)}")
        check_text("the content of a message", message["content"])
        role = ("user", "assistant")[index % 2]
        if message["role"] != role:
            raise ValueError(
                f"earlier turns must be of the user and the assistant in turn: message {index} must be of the {role}, "
                f"got {shown(message['role'])}"
            )
    if len(messages) % 2:
        raise ValueError("earlier turns must end with the assistant's answer; ask the last question behind them")


def check_max_chunks(value: Any) -> None:
    """Raises ValueError where a number of chunks is neither None nor a whole number of at least 1."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"max_chunks must be a whole number of at least 1 or None, got {shown(value)}")
