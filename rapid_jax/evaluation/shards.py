"""A benchmark spread over independent jobs: which questions each of them asks, and how its results say so."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rapid_jax.evaluation.benchmarks.base import Benchmark
from rapid_jax.evaluation.benchmarks.files import Record, shown

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")

Document = tuple[str, ...]  # the ids of the items about one document, or of one conversation


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of the equal parts of a benchmark.

    Attributes:
      index: its number, from 0 as job arrays, indexed jobs and ranges count.
      count: of all shards.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from "I/N".

        Raises:
          ValueError: another form, or an I that is not of 0 to N-1; says what would be right.
        """
        form = _FORM.fullmatch(text)
        if form is None or int(form[2]) == 0:
            raise ValueError(f"a shard is I/N with I from 0 to N-1, such as 0/4 to 3/4, got {shown(text)}")
        index, count = int(form[1]), int(form[2])
        if index >= count:
            raise ValueError(f"shards are counted from 0: of {count} the last one is {count - 1}/{count}, got {text}")
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a shard asks.

    Attributes:
      shard: whose part it is.
      questions: for each context length its documents in their order, each as the ids of its items.
    """

    shard: Shard
    questions: tuple[tuple[Document, ...], ...]

    @classmethod
    def of(cls, shard: Shard, benchmarks: Sequence[Benchmark]) -> Part:
        """Every N-th document, counted through all context lengths; where there is none, every N-th conversation.

        Args:
          shard: which part.
          benchmarks: one for each context length, whole.

        Raises:
          ValueError: more shards than documents.
        """
        counted = itertools.count()
        questions = tuple(
            tuple(found for found in _documents(benchmark) if next(counted) % shard.count == shard.index)
            for benchmark in benchmarks
        )
        total = next(counted)
        if shard.count > total:
            raise ValueError(
                f"{shard.count} shards are more than the {total} documents or conversations that are asked about: take "
                f"{total} at most"
            )
        return cls(shard, questions)

    def asked(self, number: int) -> frozenset[str]:
        """Ids of all items of a context length, by its number from 0."""
        return frozenset(itertools.chain(*self.questions[number]))

    def places(self, lengths: Sequence[Any]) -> dict[tuple[Any, str], int]:
        """(context length, item) -> number of its document in the whole benchmark, where an unsharded run has it."""
        documents = ((length, found) for length, part in zip(lengths, self.questions, strict=True) for found in part)
        return {
            (length, item): self.shard.index + number * self.shard.count
            for number, (length, found) in enumerate(documents)
            for item in found
        }

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {"part": str(self.shard), "questions": self.questions}

    @classmethod
    def read(cls, record: Record, lengths: int) -> Part:
        """From what a manifest holds.

        Args:
          record: the manifest's entry.
          lengths: number of context lengths.

        Raises:
          ValueError: something else; names the file.
        """
        questions = record.value("questions")
        try:
            shard = Shard.parse(record.text("part"))
        except ValueError as error:
            raise record.error(str(error)) from None
        good = _is_list_of(questions, lambda part: _is_list_of(part, lambda one: _is_list_of(one, _is_text)))
        if not good or len(questions) != lengths:
            raise record.error(f"field 'questions' must hold the ids of the items of {lengths} context lengths")
        return cls(shard, tuple(tuple(map(tuple, part)) for part in questions))


def _documents(benchmark: Benchmark) -> Iterator[Document]:
    """What must stay together: the items about one document, which is read once; conversations stand alone."""
    for source in benchmark.sources():
        ids = [item.id for item in source.items]
        yield from [tuple(ids)] if source.text else [(one,) for one in ids]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(value: Any, check: Any) -> bool:
    return isinstance(value, list) and all(map(check, value))
