"""InfiniteBench (arXiv 2402.13718): questions, multiple choice and summaries of whole books.

| task | items | new tokens | score |
|---|---|---|---|
| longbook_qa_eng (En.QA) | 351 | 40 | `metrics.token_f1` |
| longbook_choice_eng (En.MC) | 229 | 40 | `metrics.infinitebench_choice`, the official rule |
| longbook_sum_eng (En.Sum) | 103 | 1200 | `metrics.rouge_lsum` |

The data is that of OpenBMB/InfiniteBench: one file a task, with the fields context, input, answer and options. RAPID
(arXiv 2502.20330) ran these tasks at temperature 1, but did not publish its prompts: those below are our own, so scores
compare methods with each other and not with published numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import SUFFIXES, Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import by_document

QA, CHOICE, SUMMARY = "longbook_qa_eng", "longbook_choice_eng", "longbook_sum_eng"
MAX_NEW_TOKENS = {QA: 40, CHOICE: 40, SUMMARY: 1200}
INSTRUCTIONS = {
    QA: "Answer the following question about the book. Give the answer alone, in as few words as possible.",
    CHOICE: "Answer the following question about the book. Give the letter of the right option alone: A, B, C or D.",
    SUMMARY: "Write a summary of the book: its main characters, and what happens from beginning to end.",
}
SUMMARY_QUERY = "A summary of the main characters and events of the book."
_LETTERS = "ABCD"


class InfiniteBench:
    """The three book tasks, or those of them whose files are given; see `base.Benchmark`.

    Items are numbered in file order from 0, as the benchmark's own scripts do. En.MC has "strict_accuracy"
    (`metrics.strict_choice`) beside its "score"; the other tasks have their "score" alone.

    Args:
      path: a file named after its task (longbook_qa_eng.jsonl; .json and .parquet will do), or a directory that holds
        one or more of them.

    Raises:
      FileNotFoundError: nothing is at the path, or none of the files in the directory.
      ValueError: a file of another name, two files of one task, or a record that is not one of its task.
    """

    name = "infinitebench"
    template = "Read this book.\n\n{document}\n\n{question}"
    metrics: tuple[str, ...] = ("score", "strict_accuracy")
    sampling: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0}

    def __init__(self, path: Path | str):
        files = _files(Path(path))
        self._sources = by_document(row for task, file in files.items() for row in _rows(task, file))
        settings = [self.template, INSTRUCTIONS, SUMMARY_QUERY, MAX_NEW_TOKENS]
        self.fingerprint = fingerprint({"name": self.name, "tasks": list(files), "prompts": settings}, *files.values())

    def sources(self) -> Iterator[Source]:
        """Books in the order in which they first appear: those of En.QA, then further ones of En.MC and En.Sum."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """None: there is one turn."""
        return None

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """The score of the item's task, and the strict one of a choice."""
        answer = answers[-1]
        if item.task == QA:
            return {"score": metrics.token_f1(answer, item.reference)}
        if item.task == SUMMARY:
            return {"score": metrics.rouge_lsum(answer, item.reference)}
        label = (item.reference["option"], item.reference["letter"])
        return {
            "score": metrics.infinitebench_choice(answer, *label),
            "strict_accuracy": metrics.strict_choice(answer, *label),
        }


def _files(path: Path) -> dict[str, Path]:
    """Task -> its file, in the order of MAX_NEW_TOKENS."""
    if not path.is_dir():
        if path.exists() and path.stem not in MAX_NEW_TOKENS:
            raise ValueError(f"{path}: a file must have its task's name: {', '.join(MAX_NEW_TOKENS)}")
        return {path.stem: path}
    files = {}
    for task in MAX_NEW_TOKENS:
        found = [path / f"{task}{suffix}" for suffix in SUFFIXES if (path / f"{task}{suffix}").is_file()]
        if len(found) > 1:
            raise ValueError(f"{path} holds {found[0].name} and {found[1].name}; keep one of them")
        if found:
            files[task] = found[0]
    if not files:
        raise FileNotFoundError(f"{path} holds none of {', '.join(f'{task}.jsonl' for task in MAX_NEW_TOKENS)}")
    return files


def _rows(task: str, file: Path) -> Iterator[tuple[Record, str, Item]]:
    for number, record in enumerate(read_records(file)):
        query = SUMMARY_QUERY if task == SUMMARY else record.text("input")
        question = INSTRUCTIONS[task]
        if task != SUMMARY:
            question += f"\n\nQuestion: {query}"
        reference: Any
        if task == CHOICE:
            options = record.texts("options", 4)
            reference = _label(record, options)
            question += "".join(f"\n{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True))
        else:
            reference = list(_answers(record))
        item = Item(f"{task}-{number}", task, question, query, reference, MAX_NEW_TOKENS[task])
        yield record, record.text("context"), item


def _answers(record: Record) -> tuple[str, ...]:
    """The answer field, a list of strings or one string."""
    return (record.text("answer"),) if isinstance(record.value("answer"), str) else record.texts("answer")


def _label(record: Record, options: tuple[str, ...]) -> dict[str, str]:
    """Text and letter of the right option; the answer field holds its text, its text and letter, or its letter."""
    if not all(option.strip() for option in options):
        raise record.error("field 'options' must hold 4 strings that are not empty")
    answers = _answers(record)
    if answers[0] in options:
        index = options.index(answers[0])
    elif len(answers[0]) == 1 and answers[0] in _LETTERS:
        index = _LETTERS.index(answers[0])
    else:
        raise record.error(
            f"field 'answer' must be one of the options or a letter from A to D, got {answers[0][:60]!r}"
        )
    if len(answers) > 1 and answers[1:] != (_LETTERS[index],):
        raise record.error(f"field 'answer' must be one option, with its letter {_LETTERS[index]} at most")
    return {"option": options[index], "letter": _LETTERS[index]}
