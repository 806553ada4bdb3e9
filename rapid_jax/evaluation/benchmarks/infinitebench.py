"""InfiniteBench (arXiv 2402.13718): questions, multiple choice and summaries of whole books.

| task | items | new tokens | score |
|---|---|---|---|
| longbook_qa_eng (En.QA) | 351 | 40 | `metrics.token_f1` |
| longbook_choice_eng (En.MC) | 229 | 40 | `metrics.infinitebench_choice`, the official rule |
| longbook_sum_eng (En.Sum) | 103 | 1200 | `metrics.rouge_lsum` |

The data is that of OpenBMB/InfiniteBench: one file a task, with the fields context, input, answer and options. RAPID
(arXiv 2502.20330) ran these tasks at temperature 1, but did not publish its prompts: those below are our own, so scores
compare methods with each other and not with published numbers. `prompts` names a directory of others: a text file a
task (longbook_qa_eng.txt) with the placeholders of the benchmark's own templates, {context} first, then {question} or
{input}, and for En.MC {OPTION_A} to {OPTION_D}.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import SUFFIXES, Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import Row, bad_item, by_document

QA, CHOICE, SUMMARY = "longbook_qa_eng", "longbook_choice_eng", "longbook_sum_eng"
MAX_NEW_TOKENS = {QA: 40, CHOICE: 40, SUMMARY: 1200}
INSTRUCTIONS = {
    QA: "Answer the following question about the book. Give the answer alone, in as few words as possible.",
    CHOICE: "Answer the following question about the book. Give the letter of the right option alone: A, B, C or D.",
    SUMMARY: "Write a summary of the book: its main characters, and what happens from beginning to end.",
}
SUMMARY_QUERY = "A summary of the main characters and events of the book."
_LETTERS = "ABCD"
_OPTIONS = tuple(f"OPTION_{letter}" for letter in _LETTERS)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class InfiniteBench:
    """The three book tasks, or those of them whose files are given; see `base.Benchmark`.

    Items are numbered in file order from 0, as the benchmark's own scripts do. En.MC has "strict_accuracy"
    (`metrics.strict_choice`) beside its "score"; the other tasks have their "score" alone.

    Args:
      path: a file named after its task (longbook_qa_eng.jsonl; .json and .parquet will do), or a directory that holds
        one or more of them.
      prompts: directory of prompt templates; None takes our own.
      query_with_choices: retrieve with the question and its options, instead of the question alone.
      keep_bad: a record that is not one of its task becomes an item with its problem, instead of an error.

    Raises:
      FileNotFoundError: nothing is at the path, none of the files is in the directory, or a template is not there.
      ValueError: a file of another name, two files of one task, a record that is not one of its task, or a template
        that lacks a placeholder or holds a wrong one.
    """

    name = "infinitebench"
    template = "Read this book.\n\n{document}\n\n{question}"
    metrics: tuple[str, ...] = ("score", "strict_accuracy")
    sampling: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0}

    def __init__(
        self,
        path: Path | str,
        *,
        prompts: Path | str | None = None,
        query_with_choices: bool = False,
        keep_bad: bool = False,
    ):
        files = _files(Path(path))
        if SUMMARY in files:
            metrics.require_rouge()
        templates = {task: None if prompts is None else _Template.read(Path(prompts), task) for task in files}
        rows = (
            row
            for task, file in files.items()
            for row in _rows(task, file, templates[task], query_with_choices=query_with_choices, keep_bad=keep_bad)
        )
        self._sources = by_document(rows, keep_bad=keep_bad)
        wording = [self.template, INSTRUCTIONS, SUMMARY_QUERY, MAX_NEW_TOKENS]
        settings: dict[str, Any] = {"name": self.name, "tasks": list(files), "prompts": wording}
        if prompts is not None:
            settings["templates"] = [dataclasses.astuple(template) for template in templates.values() if template]
        if query_with_choices:
            settings["query_with_choices"] = True
        self.fingerprint = fingerprint(settings, *files.values())

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


@dataclasses.dataclass(frozen=True)
class _Template:
    """A prompt of a task: what stands before the book, and what stands behind it, with placeholders."""

    before: str
    behind: str

    @classmethod
    def read(cls, directory: Path, task: str) -> _Template:
        path = directory / f"{task}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"no template at {path}; the directory needs one for every task that is asked")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not text in UTF-8") from None
        found = ["question" if name == "input" else name for name in _PLACEHOLDER.findall(text)]
        needed = (
            {"context"} | ({"question"} if task != SUMMARY else set()) | (set(_OPTIONS) if task == CHOICE else set())
        )
        if set(found) != needed:
            wrong = " ".join(f"{{{name}}}" for name in sorted(needed ^ set(found)))
            raise ValueError(f"{path}: placeholders that are missing or do not belong there: {wrong}")
        if found[0] != "context" or found.count("context") > 1:
            raise ValueError(f"{path}: {{context}} must stand once, before all other placeholders")
        before, behind = text.split("{context}")
        if not behind.strip():
            raise ValueError(f"{path}: some words must follow {{context}}, such as 'Summary:'")
        return cls(before, behind)

    def question(self, values: Mapping[str, str]) -> str:
        """What follows the book, filled in one pass: a value that looks like a placeholder stays as it is."""
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], self.behind)


def _rows(
    task: str, file: Path, template: _Template | None, *, query_with_choices: bool, keep_bad: bool
) -> Iterator[Row]:
    for number, record in enumerate(read_records(file, keep_bad=keep_bad)):
        name = f"{task}-{number}"
        try:
            row = _row(task, record, name, template, query_with_choices)
        except ValueError as error:
            if not keep_bad:
                raise
            row = Row(record, "", bad_item(record, str(error), task, name))
        yield row


def _row(task: str, record: Record, name: str, template: _Template | None, query_with_choices: bool) -> Row:
    query = SUMMARY_QUERY if task == SUMMARY else record.text("input")
    question = INSTRUCTIONS[task]
    values = {"question": query, "input": query}
    if task != SUMMARY:
        question += f"\n\nQuestion: {query}"
    reference: Any
    if task == CHOICE:
        options = record.texts("options", 4)
        reference = _label(record, options)
        values |= dict(zip(_OPTIONS, options, strict=True))
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True))
        question += listed
        query += listed if query_with_choices else ""
    else:
        reference = list(_answers(record))
    if template is not None:
        question = template.question(values)
    before = "" if template is None else template.before + "{document}{question}"
    return Row(
        record,
        record.text("context"),
        Item(name, task, question, query, reference, MAX_NEW_TOKENS[task]),
        before,
    )


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
