"""Archives (`rapid_jax.evaluation.archive`) as a benchmark: made-up documents, questions whose answers are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.archive import (
    TASKS,
    Archive,
    Question,
    make_archive,
    to_question,
    with_choices,
)
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import bad_item, with_bad

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
      query_with_choices: retrieve with a question and its options, instead of the question alone.
      bad: items that cannot be asked.
      scored: False leaves the scores out, and with them what they need.

    Raises:
      ValueError: an unknown task, a limit below 1, or archives without a question of these tasks.
    """

    name = "archive"
    template = "{document}\n\n{question}"
    metrics: tuple[str, ...] = ("score",)
    sampling: Mapping[str, Any] = {"temperature": 0.0}

    def __init__(
        self,
        archives: Mapping[str, tuple[Archive, int]],
        *,
        limit: int | None = None,
        tasks: Sequence[str] = TASKS,
        query_with_choices: bool = False,
        bad: Sequence[Item] = (),
        scored: bool = True,
    ):
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(unknown) or 'none'}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 question, got {limit}")
        self._questions: dict[str, Question] = {}
        self._query_with_choices = query_with_choices
        self._scored = scored
        sources = []
        for name, (archive, seed) in archives.items():
            items = []
            for task, questions in sample_questions(archive, limit, seed).items():
                items += [self._item(name, question) for question in questions if task in tasks]
            if items:
                sources.append(Source(name, archive.document, tuple(items)))
        self._sources = with_bad(sources, [item for item in bad if item.task in tasks])
        if not sources:
            raise ValueError(f"no archive has a question of task {' or '.join(tasks)}: make them longer")
        if scored and any(item.task == "dossier" for source in sources for item in source.items):
            metrics.require_rouge()
        asked = [[item.id, item.question, item.reference] for source in self._sources for item in source.items]
        settings: dict[str, Any] = {"name": self.name, "max_new_tokens": MAX_NEW_TOKENS, "asked": asked}
        if query_with_choices:
            settings["query_with_choices"] = True
        self.fingerprint = fingerprint(settings, *(source.text for source in self._sources))

    def _item(self, source: str, question: Question) -> Item:
        item = Item(
            id=f"{source}/{question.id}",
            task=question.task,
            question=with_choices(question),
            retrieval_query=with_choices(question) if self._query_with_choices else question.question,
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
        query_with_choices: bool = False,
        scored: bool = True,
    ) -> ArchiveBenchmark:
        """Archives that are made here; the default seed lies outside those that the embedded model was trained on.

        Args:
          tokens: length of each archive at most, as `count_tokens` counts.
          count_tokens: number of tokens of a text.
          archives: number of archives, at least 1.
          seed: of the first archive and its questions; the next ones count on.
          limit, tasks, query_with_choices, scored: see the class.

        Raises:
          ValueError: an archive too short to hold anything, or see the class.
        """
        if archives < 1:
            raise ValueError(f"archives must be at least 1, got {archives}")
        documents = {
            f"archive-{tokens}-{number}": (make_archive(tokens, number, count_tokens), number)
            for number in range(seed, seed + archives)
        }
        return cls(documents, limit=limit, tasks=tasks, query_with_choices=query_with_choices, scored=scored)

    @classmethod
    def read(
        cls,
        data: Path | str,
        *,
        seed: int = 0,
        limit: int | None = None,
        tasks: Sequence[str] = TASKS,
        query_with_choices: bool = False,
        keep_bad: bool = False,
    ) -> ArchiveBenchmark:
        """One archive that `launch.make_archive` wrote: document.txt and questions.jsonl in the directory `data`.

        Args:
          data: the directory.
          seed: of the drawing of questions.
          limit, tasks, query_with_choices: see the class.
          keep_bad: a line that is not a question becomes an item with its problem, instead of an error.

        Raises:
          FileNotFoundError: one of the files is not there.
          ValueError: an empty document, a line that is not a question, or see the class.
        """
        document, file = Path(data) / "document.txt", Path(data) / "questions.jsonl"
        if not document.is_file():
            raise FileNotFoundError(f"no document at {document}; name a directory that launch.make_archive wrote")
        try:
            text = document.read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            raise ValueError(f"{document}: not text in UTF-8") from None
        if not text.strip():
            raise ValueError(f"{document}: the document is empty")
        questions, bad = _read_questions(file, keep_bad)
        archives = {"archive": (Archive((text,), questions), seed)}
        return cls(archives, limit=limit, tasks=tasks, query_with_choices=query_with_choices, bad=bad)

    def sources(self) -> Iterator[Source]:
        """Archives in the order of their seeds."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """None: there is one turn."""
        return None

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Exact match for fact and whole, the right option or its letter for choice, ROUGE-L for dossier."""
        if not self._scored:
            return {}
        return {"score": metrics.score(self._questions[item.id], answers[-1])}


def _read_questions(file: Path, keep_bad: bool) -> tuple[tuple[Question, ...], list[Item]]:
    """The questions of a file, and its bad lines where they are kept."""
    if not file.is_file():
        raise FileNotFoundError(f"no questions file at {file}")
    questions: dict[str, Question] = {}
    bad: list[Item] = []
    for record in read_records(file, keep_bad=keep_bad):
        try:
            question = to_question(record)
            if question.id in questions:
                raise record.error(f"not a question of an archive (its id {question.id!r} appears twice)")
        except ValueError as error:
            if not keep_bad:
                raise
            task = record.fields.get("task")
            bad.append(bad_item(record, str(error), task if task in TASKS else TASKS[0]))
            continue
        questions[question.id] = question
    if bad and not questions:
        raise ValueError(bad[0].problem)
    return tuple(questions.values()), bad
