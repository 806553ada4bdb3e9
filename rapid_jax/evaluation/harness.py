"""Asks questions about archives with several methods and scores the answers."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rapid_jax.answer import Answer
from rapid_jax.engine import Document, Engine
from rapid_jax.evaluation.archive import TASKS, Archive, Question, with_choices
from rapid_jax.evaluation.metrics import score

MAX_NEW_TOKENS = {"fact": 16, "choice": 16, "dossier": 384, "whole": 16}


@dataclasses.dataclass(frozen=True)
class Item:
    """One answered question.

    Attributes:
      context_length: tokens that the archive was made for.
      question, answer: what was asked and what came back.
      score: in [0, 1]: exact match, right letter or ROUGE-L, as the task has it.
    """

    context_length: int
    question: Question
    answer: Answer
    score: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "context_length": self.context_length,
            "id": self.question.id,
            "task": self.question.task,
            "reference": self.question.answer,
            "score": self.score,
            **self.answer.to_dict(),
        }


def sample_questions(archive: Archive, limit: int, seed: int) -> dict[str, list[Question]]:
    """Up to `limit` questions of each task, drawn without replacement."""
    chosen = {}
    for task in TASKS:
        questions = [question for question in archive.questions if question.task == task]
        random.Random(seed).shuffle(questions)
        chosen[task] = questions[:limit]
    return chosen


def evaluate(
    engine: Engine,
    document: Document,
    context_length: int,
    questions: Iterable[Question],
    methods: Sequence[str],
    *,
    batch: int = 8,
) -> Iterator[Item]:
    """Answers questions in batches that share the document's cache; yields items as they are done.

    Args:
      questions: of any tasks; a batch holds one task, because answers of like length end together.
      methods: names in rapid_jax.METHODS.
      batch: rows decoded together. A last batch that is not full repeats a question, so that shapes stay the same.
    """
    by_task: dict[str, list[Question]] = {task: [] for task in TASKS}
    for question in questions:
        by_task[question.task].append(question)
    for task, group in by_task.items():
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            full = part + [part[-1]] * (batch - len(part))
            for method in methods:
                answers = engine.ask_many(
                    document,
                    [with_choices(question) for question in full],
                    method,
                    retrieval_queries=[question.question for question in full],
                    max_new_tokens=MAX_NEW_TOKENS[task],
                )
                for question, answer in zip(part, answers, strict=False):
                    yield Item(context_length, question, answer, score(question, answer.text))


def mean_and_error(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single score is nan."""
    mean = sum(scores) / len(scores)
    if len(scores) < 2:
        return mean, math.nan
    variance = sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)
    return mean, math.sqrt(variance / len(scores))
