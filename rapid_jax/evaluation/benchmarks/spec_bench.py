"""Spec-Bench (arXiv 2401.07851): 480 short conversations of six kinds, for the speed of speculative decoding.

The data file is question.jsonl of hemingkx/Spec-Bench, with the fields question_id, category and turns. There is no
document and no score: what counts is tokens a second. The eight categories of MT-Bench, which have two turns, make one
task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import Row, by_document, rows_of
from rapid_jax.evaluation.benchmarks.turns import next_turn

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OTHERS = ("translation", "summarization", "qa", "math_reasoning", "rag")
MAX_NEW_TOKENS = 1024


class SpecBench:
    """All questions as one source without a document, in file order; see `base.Benchmark`.

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
        records = read_records(Path(path), keep_bad=keep_bad)
        rows = rows_of(records, self._row, self.name, keep_bad=keep_bad)
        self._sources = by_document(rows, keep_bad=keep_bad)
        self.fingerprint = fingerprint({"name": self.name, "max_new_tokens": MAX_NEW_TOKENS}, Path(path))

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
        return Row(record, "", item)

    def sources(self) -> Iterator[Source]:
        """One source with an empty text, and one of bad records where there are any."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """The next turn of the conversation; see `turns.next_turn`."""
        return next_turn(self._turns[item.id], answers, MAX_NEW_TOKENS)

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Nothing: no answer is right or wrong."""
        return {}
