"""Spec-Bench (arXiv 2401.07851): 480 short conversations of six kinds, for the speed of speculative decoding.

The data file is question.jsonl of hemingkx/Spec-Bench, with the fields question_id, category and turns. There is no
document and no score: what counts is tokens a second. The eight categories of MT-Bench, which have two turns, make one
task and take turns in it, so that its first questions are of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import Row, by_document, rows_of
from rapid_jax.evaluation.benchmarks.turns import next_turn

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OTHERS = ("translation", "summarization", "qa", "math_reasoning", "rag")
TASKS = {
    "mt_bench": "multi-turn conversation",
    "translation": "translation",
    "summarization": "summarization",
    "qa": "question answering",
    "math_reasoning": "mathematical reasoning",
    "rag": "retrieval-augmented generation",
}  # as the published tables call them, in their order
MAX_NEW_TOKENS = 1024


class SpecBench:
    """All questions as one source without a document; see `base.Benchmark`.

    They are in file order, but for those of MT-Bench: one of each category, then the next one of each.

    Args:
      path: the data file.
      keep_bad: a record that is not a question becomes an item with its problem, instead of an error.

    Raises:
      FileNotFoundError: the data file is not there.
      ValueError: a record that is not a question.
    """

    name = "specbench"
    template = "{document}{question}"
    metrics: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = {"temperature": 0.0}

    def __init__(self, path: Path | str, *, keep_bad: bool = False):
        self._turns: dict[str, tuple[str, ...]] = {}
        self._categories: dict[str, str] = {}
        records = read_records(Path(path), keep_bad=keep_bad)
        rows = rows_of(records, self._row, self.name, keep_bad=keep_bad)
        self._sources = tuple(self._in_turn(source) for source in by_document(rows, keep_bad=keep_bad))
        settings = {"name": self.name, "max_new_tokens": MAX_NEW_TOKENS, "order": "categories of MT-Bench in turn"}
        self.fingerprint = fingerprint(settings, Path(path))

    def _row(self, record: Record) -> Row:
        category = record.one_of("category", (*MT_BENCH, *OTHERS))
        turns = record.texts("turns")
        if not all(turn.strip() for turn in turns):
            raise record.error("field 'turns' must hold strings that are not empty")
        item = Item(
            id=record.key("question_id"),
            task="mt_bench" if category in MT_BENCH else category,
            question=turns[0],
            retrieval_query=turns[0],
            reference=None,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        self._turns.setdefault(item.id, turns)
        self._categories.setdefault(item.id, category)
        return Row(record, "", item)

    def _in_turn(self, source: Source) -> Source:
        """The source with the categories of MT-Bench in turn, in the places that their items have now."""
        theirs = [item for item in source.items if item.task == "mt_bench"]
        taken: dict[str, int] = {}
        rounds = {}
        for item in theirs:
            category = self._categories[item.id]
            rounds[item.id] = taken[category] = taken.get(category, 0) + 1
        ordered = iter(sorted(theirs, key=lambda item: rounds[item.id]))
        items = tuple(next(ordered) if item.task == "mt_bench" else item for item in source.items)
        return dataclasses.replace(source, items=items)

    def sources(self) -> Iterator[Source]:
        """One source with an empty text, and one of bad records where there are any."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """The next turn of the conversation; see `turns.next_turn`."""
        return next_turn(self._turns[item.id], answers, MAX_NEW_TOKENS)

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Nothing: no answer is right or wrong."""
        return {}
