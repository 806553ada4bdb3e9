"""The user's prompts, of the form that the runner asks (`rapid_jax.evaluation.benchmarks.base`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.database_building.documents import read_text
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import SUFFIXES, Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.turns import next_turn

FIELDS = ("prompt", "question")
TURNS = "turns"


class Prompts:
    """Prompts of a file as questions about one document, or as plain conversations; see `base.Benchmark`.

    Args:
      path: text with a prompt a line, or records (JSONL, JSON, parquet) with a field "prompt" or "question", or with
        "turns", a list of the user's messages. Turns after the first go on without the document.
      document: its text; empty for conversations.
      template: user message with {document} before {question}.
      max_new_tokens: of every answer.

    Raises:
      FileNotFoundError, IsADirectoryError: the file is not there.
      ValueError: it holds no prompt, or a record that is none.
    """

    name = "prompts"
    metrics: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = {}

    def __init__(self, path: Path, *, document: str, template: str, max_new_tokens: int):
        self.template = template
        self._max_new_tokens = max_new_tokens
        self._turns = {f"prompt-{number}": turns for number, turns in enumerate(_read(path), start=1)}
        items = (Item(name, self.name, turns[0], turns[0], None, max_new_tokens) for name, turns in self._turns.items())
        self._source = Source("prompts", document, tuple(items))
        settings = {"name": self.name, "max_new_tokens": max_new_tokens, "template": template if document else ""}
        self.fingerprint = fingerprint(settings, path, document)

    def sources(self) -> Iterator[Source]:
        """One source."""
        yield self._source

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """The next turn of the conversation; see `turns.next_turn`."""
        return next_turn(self._turns[item.id], answers, self._max_new_tokens)

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Nothing: no answer is right or wrong."""
        return {}


def _read(path: Path) -> list[tuple[str, ...]]:
    """The user's messages of each prompt."""
    if path.suffix in SUFFIXES:
        return [_messages(record) for record in read_records(path)]
    return [(line,) for line in read_text(path).splitlines() if line.strip()]


def _messages(record: Record) -> tuple[str, ...]:
    name = next((name for name in FIELDS if name in record.fields), None)
    if name is not None:
        return (record.text(name),)
    if TURNS not in record.fields:
        raise record.error(f"not a prompt: it has none of the fields {', '.join(FIELDS)} and {TURNS}")
    turns = record.texts(TURNS)
    if not all(turn.strip() for turn in turns):
        raise record.error(f"field {TURNS!r} must hold strings that are not empty")
    return turns
