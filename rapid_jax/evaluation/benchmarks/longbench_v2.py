"""LongBench v2 (arXiv 2412.15204): 503 multiple-choice questions about documents of 8K to 2M words.

The data file is that of THUDM/LongBench, with the fields _id, difficulty, length, question, choice_A to choice_D,
answer and context. Prompts come from the `prompts` directory of its checkout:

| file | used for | new tokens |
|---|---|---|
| 0shot.txt | the answer at once | 128 |
| 0shot_cot.txt | first stage of `cot`: reasoning | 1024 |
| 0shot_cot_ans.txt | second stage of `cot`: the answer, with the reasoning and without the document | 128 |

Without that directory the short templates below take their place: our own wording, with the same placeholders and the
same form of the final sentence, "The correct answer is (X)". Name the official ones to compare with published numbers.
Its authors cut the middle out of prompts of more than 120,000 tokens; that is a setting of the engine, not of this
reader.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.config.evaluation import EvaluationConfig
from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import Row, by_document, rows_of

_DEFAULT = EvaluationConfig()

DIFFICULTIES = ("easy", "hard")
LENGTHS = ("short", "medium", "long")
ANSWER_TOKENS, REASONING_TOKENS = 128, 1024

DIRECT, REASONING, CONCLUSION = "0shot.txt", "0shot_cot.txt", "0shot_cot_ans.txt"
_QUESTION = "Question: $Q$\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\n\n"
_DOCUMENT = "Here is a text with a question about it.\n\n<text>\n$DOC$\n</text>\n\n"
_FORM = 'Write one sentence of this form, with the letter of the right option for X: "The correct answer is (X)".'
TEMPLATES = {
    DIRECT: f"{_DOCUMENT}{_QUESTION}{_FORM}",
    REASONING: f"{_DOCUMENT}{_QUESTION}Think about the question step by step before you choose an option.",
    CONCLUSION: f"Here is a question about a text that is not shown.\n\n{_QUESTION}Thoughts: $COT$\n\n{_FORM}",
}
CHUNKS = {  # a template's words about the document -> about passages, as RAPID's published evaluation has them
    "Please read the following text": "Please read the following retrieved text chunks",
    "Here is a text with a question": "Here are parts of a text that were retrieved, with a question",
}
_PLACEHOLDER = re.compile(r"\$(DOC|Q|C_A|C_B|C_C|C_D|COT)\$")


class LongBenchV2:
    """All questions, each in the groups of its difficulty and length; see `base.Benchmark`.

    "score" is 1 for the right letter; "answered" is 1 where `metrics.longbench_letter` finds any letter at all.

    Args:
      path: the data file.
      prompts: directory of the official templates; None takes our own.
      cot: two stages: reasoning about the document, then the answer.
      settings: the retrieval query, the words around passages and the form of an answer.
      keep_bad: a record that is not a question becomes an item with its problem, instead of an error.

    Raises:
      FileNotFoundError: the data file or a template is not there.
      ValueError: a record that is not a question, or a template that lacks a placeholder or holds a wrong one.
    """

    name = "longbench_v2"
    metrics: tuple[str, ...] = ("score", "answered")
    sampling: Mapping[str, Any] = {"temperature": 0.1}

    def __init__(
        self,
        path: Path | str,
        *,
        prompts: Path | str | None = None,
        cot: bool = False,
        settings: EvaluationConfig = _DEFAULT,
        keep_bad: bool = False,
    ):
        first = _template(prompts, REASONING if cot else DIRECT, "DOC")
        self._conclusion = _template(prompts, CONCLUSION, "COT") if cot else None
        before, self._after = first.split("$DOC$")
        self.template = before + "{document}{question}"
        self._passages_template = ""
        if settings.passages_prompt == "passages":
            self._passages_template = _about_passages(before, prompts) + "{document}{question}"
        self._settings = settings
        self._values: dict[str, dict[str, str]] = {}
        self._max_new_tokens = REASONING_TOKENS if cot else ANSWER_TOKENS
        records = read_records(Path(path), keep_bad=keep_bad)
        rows = rows_of(records, self._row, self.name, keep_bad=keep_bad)
        self._sources = by_document(rows, keep_bad=keep_bad)
        own = {"name": self.name, "templates": [first, self._conclusion]}
        changed = {} if settings == _DEFAULT else {"settings": dataclasses.asdict(settings)}
        self.fingerprint = fingerprint({**own, **changed}, Path(path))

    def _row(self, record: Record) -> Row:
        values = {"Q": record.text("question").strip()}
        values |= {f"C_{letter}": record.text(f"choice_{letter}").strip() for letter in "ABCD"}
        item = Item(
            id=record.key("_id"),
            task=self.name,
            question=_fill(self._after, values),
            retrieval_query=self._query(values),
            reference=record.one_of("answer", tuple("ABCD")),
            max_new_tokens=self._max_new_tokens,
            groups=(record.one_of("difficulty", DIFFICULTIES), record.one_of("length", LENGTHS)),
        )
        text = record.text("context").strip()
        self._values.setdefault(item.id, values)
        return Row(record, text, item, "", self._passages_template)

    def _query(self, values: Mapping[str, str]) -> str:
        if self._settings.retrieval_query == "question":
            return values["Q"]
        return _fill("$Q$\nChoices:\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$", values)

    def sources(self) -> Iterator[Source]:
        """Documents in file order."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """With `cot`, the second stage after the reasoning; else None."""
        if self._conclusion is None or len(answers) != 1:
            return None
        message = _fill(self._conclusion, {**self._values[item.id], "COT": answers[0].strip()})
        return FollowUp(({"role": "user", "content": message},), ANSWER_TOKENS)

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Whether the last answer names the right letter, and whether it names one."""
        letter = metrics.longbench_letter(answers[-1], self._settings.longbench_answer)
        return {"score": float(letter == item.reference), "answered": float(letter is not None)}


def _about_passages(before: str, prompts: Path | str | None) -> str:
    """What stands before the document in a template, with the words for retrieved passages."""
    for words, others in CHUNKS.items():
        if words in before:
            return before.replace(words, others)
    raise ValueError(
        f"{prompts}: passages_prompt 'passages' needs a template with the words {next(iter(CHUNKS))!r} before $DOC$"
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its placeholders replaced in one pass: a value that looks like a placeholder stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def _template(directory: Path | str | None, name: str, special: str) -> str:
    """A template, official or our own, that holds question and options, and DOC (before them) or COT."""
    if directory is None:
        return TEMPLATES[name]
    path = Path(directory) / name
    if not path.is_file():
        raise FileNotFoundError(f"no template at {path}; name the directory `prompts` of a checkout of LongBench")
    text = path.read_text(encoding="utf-8")
    found = _PLACEHOLDER.findall(text)
    needed = {special, "Q", "C_A", "C_B", "C_C", "C_D"}
    if set(found) != needed:
        wrong = " ".join(f"${placeholder}$" for placeholder in sorted(needed ^ set(found)))
        raise ValueError(f"{path}: placeholders that are missing or do not belong there: {wrong}")
    if special == "DOC":
        before = text.partition("$DOC$")[0]
        if found.count("DOC") > 1 or _PLACEHOLDER.search(before):
            raise ValueError(f"{path}: $DOC$ must stand once, before all other placeholders")
        if "{document}" in before or "{question}" in before:
            raise ValueError(f"{path}: {{document}} and {{question}} must not stand before $DOC$")
    return text
