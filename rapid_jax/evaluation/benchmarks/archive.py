"""Archives (`rapid_jax.evaluation.archive`) as a benchmark: made-up documents, questions whose answers are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.archive import (
    LETTERS,
    TASKS,
    Archive,
    Question,
    make_archive,
    read_questions,
    with_choices,
)
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import fingerprint

MAX_NEW_TOKENS = {"fact": 16, "choice": 16, "dossier": 384, "whole": 256}


def sample_questions(archive: Archive, limit: int | None, seed: int) -> dict[str, list[Question]]:
    """Up to `limit` questions of each task (None: all), drawn without replacement."""
    chosen = {}
    for task in TASKS:
        questions = [question for question in archive.questions if question.task == task]
        random.Random(seed).shuffle(questions)
        chosen[task] = questions[:limit]
    return chosen


class ArchiveBenchmark:
    """Questions about archives of one length; see `base.Benchmark`. Make it with `made` or `read`.

    Args:
      archives: id -> archive and the seed that its questions are drawn with.
      limit: questions of each task about each archive at most; None asks all.
      tasks: those that are asked, out of archive.TASKS.

    Raises:
      ValueError: an unknown task, a limit below 1, or archives without a question of these tasks.
    """

    name = "archive"
    template = "{document}\n\n{question}"
    metrics: tuple[str, ...] = ("score",)
    sampling: Mapping[str, Any] = {"temperature": 0.0}

    def __init__(
        self, archives: Mapping[str, tuple[Archive, int]], *, limit: int | None = None, tasks: Sequence[str] = TASKS
    ):
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(unknown) or 'none'}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 question, got {limit}")
        self._questions: dict[str, Question] = {}
        self._sources = []
        for name, (archive, seed) in archives.items():
            items = []
            for task, questions in sample_questions(archive, limit, seed).items():
                items += [self._item(name, question) for question in questions if task in tasks]
            if items:
                self._sources.append(Source(name, archive.document, tuple(items)))
        if not self._sources:
            raise ValueError(f"no archive has a question of task {' or '.join(tasks)}: make them longer")
        asked = [[item.id, item.question, item.reference] for source in self._sources for item in source.items]
        settings = {"name": self.name, "max_new_tokens": MAX_NEW_TOKENS, "asked": asked}
        self.fingerprint = fingerprint(settings, *(source.text for source in self._sources))

    def _item(self, source: str, question: Question) -> Item:
        item = Item(
            id=f"{source}/{question.id}",
            task=question.task,
            question=with_choices(question),
            retrieval_query=question.question,
            reference=question.answer,
            max_new_tokens=MAX_NEW_TOKENS[question.task],
        )
        self._questions[item.id] = question
        return item

    @classmethod
    def made(
        cls,
        tokens: int,
        count_tokens: Callable[[str], int],
        *,
        archives: int = 4,
        seed: int = 1_000_000,
        limit: int | None = 16,
        tasks: Sequence[str] = TASKS,
    ) -> ArchiveBenchmark:
        """Archives that are made here; the default seed lies outside those that the embedded model was trained on.

        Args:
          tokens: length of each archive at most, as `count_tokens` counts.
          count_tokens: number of tokens of a text.
          archives: number of archives, at least 1.
          seed: of the first archive and its questions; the next ones count on.
          limit, tasks: see the class.

        Raises:
          ValueError: an archive too short to hold anything, or see the class.
        """
        if archives < 1:
            raise ValueError(f"archives must be at least 1, got {archives}")
        documents = {
            f"archive-{tokens}-{number}": (make_archive(tokens, number, count_tokens), number)
            for number in range(seed, seed + archives)
        }
        return cls(documents, limit=limit, tasks=tasks)

    @classmethod
    def read(
        cls, data: Path | str, *, seed: int = 0, limit: int | None = None, tasks: Sequence[str] = TASKS
    ) -> ArchiveBenchmark:
        """One archive that `launch.make_archive` wrote: document.txt and questions.jsonl in the directory `data`.

        Args:
          data: the directory.
          seed: of the drawing of questions.
          limit, tasks: see the class.

        Raises:
          FileNotFoundError: one of the files is not there.
          ValueError: an empty document, a line that is not a question, or see the class.
        """
        document, questions = Path(data) / "document.txt", Path(data) / "questions.jsonl"
        if not document.is_file():
            raise FileNotFoundError(f"no document at {document}; name a directory that launch.make_archive wrote")
        text = document.read_text(encoding="utf-8").removesuffix("\n")
        if not text.strip():
            raise ValueError(f"{document}: the document is empty")
        archive = Archive((text,), read_questions(questions))
        seen: set[str] = set()
        for number, question in enumerate(archive.questions, start=1):
            if not _is_sound(question) or question.id in seen:
                raise ValueError(f"{questions}, line {number}: not a question of an archive, or its id appears twice")
            seen.add(question.id)
        return cls({"archive": (archive, seed)}, limit=limit, tasks=tasks)

    def sources(self) -> Iterator[Source]:
        """Archives in the order of their seeds."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """None: there is one turn."""
        return None

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Exact match for fact and whole, the right option or its letter for choice, ROUGE-L for dossier."""
        return {"score": metrics.score(self._questions[item.id], answers[-1])}


def _is_sound(question: Question) -> bool:
    """Whether the fields that were read have the types and values of an archive's question."""
    texts = (question.id, question.task, question.question, question.answer, *question.choices)
    if not all(isinstance(text, str) and text.strip() for text in texts) or question.task not in TASKS:
        return False
    if not isinstance(question.working, str) or bool(question.choices) != (question.task == "choice"):
        return False
    return not question.choices or (question.answer in question.choices and len(question.choices) <= len(LETTERS))
