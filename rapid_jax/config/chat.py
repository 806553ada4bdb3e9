"""Settings of a prompt beside its text: what the chat template is given, how special tokens in a text are read."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from rapid_jax.config.checks import require

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """What a chat template is given beside the messages.

    Attributes:
      arguments: a JSON object of further variables of the template, such as {"enable_thinking": false}; "" is none. A
        mapping is taken too, and kept as JSON.
      date: the day that the template takes for today's (`strftime_now`), such as "2024-07-26"; "" is the day on which
        the Engine is loaded.
      special_tokens_in_text: special tokens that are written out in documents, passages, questions and messages are
        read as such, for prompts made by hand; otherwise they are text, and the chat template alone writes them.
    """

    arguments: str = ""
    date: str = ""
    special_tokens_in_text: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.arguments, Mapping):
            object.__setattr__(self, "arguments", _as_json(self.arguments))
        self.variables()
        require(isinstance(self.date, str), f"chat.date must be a day such as 2024-07-26, got {self.date!r}")
        if self.date:
            require(_is_day(self.date), f"chat.date must be a day such as 2024-07-26, got {self.date!r}")
        require(
            isinstance(self.special_tokens_in_text, bool),
            f"chat.special_tokens_in_text must be True or False, got {self.special_tokens_in_text!r}",
        )

    def variables(self) -> dict[str, Any]:
        """The arguments by name.

        Raises:
          ValueError: they are no JSON object, or a name is none that a template can use.
        """
        wanted = 'chat.arguments must be a JSON object such as {"enable_thinking": false}'
        require(isinstance(self.arguments, str), f"{wanted}, got {self.arguments!r}")
        if not self.arguments.strip():
            return {}
        try:
            values = json.loads(self.arguments, parse_constant=_no_constant, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{wanted}, got {self.arguments[:80]!r} ({error})") from None
        require(isinstance(values, dict), f"{wanted}, got {self.arguments[:80]!r}")
        for name in values:
            require(name.isidentifier(), f"{wanted}; {name!r} cannot be the name of an argument")
        return values

    def dated(self) -> ChatConfig:
        """The same with today's date where it names none, so that a run that goes on tomorrow has the same prompts."""
        return self if self.date else dataclasses.replace(self, date=datetime.date.today().isoformat())


def check_prompt_template(template: Any, name: str = "prompt") -> None:
    """Refuses a user message's template that does not hold {document} once, then {question} once.

    Args:
      template: the text.
      name: of the setting, for the message.

    Raises:
      ValueError: it does not.
    """
    require(isinstance(template, str), f"{name} must be a string, got {template!r}")
    document, question = template.find("{document}"), template.find("{question}")
    require(
        0 <= document < question and template.count("{document}") == 1 and template.count("{question}") == 1,
        f"{name} must hold {{document}} once, then {{question}} once, got {template!r}",
    )


def check_keep(keep: Any) -> None:
    """Refuses what is not (tokens kept at a document's start, tokens kept at its end).

    Raises:
      ValueError: not two whole numbers of at least 0, or both 0.
    """
    numbers = isinstance(keep, tuple | list) and len(keep) == 2 and all(type(n) is int and n >= 0 for n in keep)
    require(
        bool(numbers and sum(keep)),
        f"keep must be two numbers of tokens, at the document's start and at its end, got {keep!r}",
    )


def _as_json(arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(arguments)) if arguments else ""
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"chat.arguments must be a JSON object: {error}") from None


def _is_day(text: str) -> bool:
    try:
        return bool(_DAY.fullmatch(text) and datetime.date.fromisoformat(text))
    except ValueError:
        return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice")
    return values
