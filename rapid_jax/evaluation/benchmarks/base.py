"""What a benchmark is to the runner: documents, items about them, follow-up turns, and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

Message = dict[str, str]  # {"role": "user" or "assistant", "content": text}, as chat templates take it


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to answer.

    Attributes:
      id: unique within the benchmark.
      task: the row of the tables that it counts in.
      question: everything that follows the document in the prompt, answer choices included.
      retrieval_query: what to retrieve with: the question alone, or with its answer choices.
      reference: what the answer is scored against, any JSON value.
      max_new_tokens: of the first answer.
      groups: further rows that it counts in, such as its difficulty.
      problem: why it cannot be asked (a bad record of the data file, named by its line); it is recorded as failed.
    """

    id: str
    task: str
    question: str
    retrieval_query: str
    reference: Any
    max_new_tokens: int
    groups: tuple[str, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """A further turn that needs no document: the whole conversation so far, ending with the user's message."""

    messages: tuple[Message, ...]
    max_new_tokens: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A document with its items; an empty text means that the items are plain conversations.

    Attributes:
      id: unique within the benchmark.
      text: the document.
      items: at least one.
      template: of its prompts; empty is the benchmark's.
      passages_template: of prompts around retrieved passages; empty is that of the document's.
    """

    id: str
    text: str
    items: tuple[Item, ...]
    template: str = ""
    passages_template: str = ""


class Benchmark(Protocol):
    """A benchmark whose data has been read and checked.

    Attributes:
      name: as on the command line.
      template: user message with {document} before {question}.
      metrics: names of the scores, "score" first; empty where answers are not scored.
      sampling: fields of SamplingConfig that its authors (or the RAPID paper) ran it with.
      fingerprint: changes when data or settings change; results of different ones are never mixed.
    """

    name: str
    template: str
    metrics: tuple[str, ...]
    sampling: Mapping[str, Any]
    fingerprint: str

    def sources(self) -> Iterator[Source]:
        """Documents in a fixed order."""
        ...

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """The turn after these answers to an item, or None when the item is done."""
        ...

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Metrics in [0, 1] of the item's answers (one a turn); those that its task does not have are left out."""
        ...
