"""Asks a benchmark's questions with several methods and settings, and keeps every answer as it comes.

A question that cannot be asked (a bad record, a document that is too long or empty, a prompt with no room) is recorded
as failed, with its reason, and the others go on. What concerns all of them (a model, a disk, memory) ends the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from models.memory import TooLittleMemory
from rapid_jax.config.methods import METHODS
from rapid_jax.engine import Document, Engine
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.prompt import Prompt
from rapid_jax.evaluation.benchmarks.base import Benchmark, Item, Source
from rapid_jax.evaluation.benchmarks.selection import restricted
from rapid_jax.evaluation.results import FAILED
from rapid_jax.evaluation.store import ElsewhereStore, ResultStore
from rapid_jax.evaluation.variation import Variation

Way = tuple[str, Variation]  # a method, and what it heeds of what is varied

# What bad data raises; what else may happen concerns all items.
FAULTS = (ValueError, TypeError, LookupError, ArithmeticError)


@dataclasses.dataclass(frozen=True)
class Asked:
    """An item with the source that it is about: a row of a batch."""

    source: Source
    item: Item


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What is asked.

    Attributes:
      benchmark: documents and items.
      context_length: tokens of the documents or prompts, as the results name it.
      methods: names in rapid_jax.METHODS.
      variations: a method is asked once for each that differs in what concerns it.
      batch: questions about one document that are decoded together.
      prompt_tokens: longer prompts lose their middle until they have so many; 0 leaves that to the model's limit.
      keep_databases: n-gram databases go on from one turn of a conversation to the next.
      questions: ids of the items that are asked here, such as those of a shard; None asks all.
      across_documents: what does not fill a batch of one document is batched with questions about other documents.
    """

    benchmark: Benchmark
    context_length: int
    methods: Sequence[str]
    variations: Sequence[Variation]
    batch: int
    prompt_tokens: int = 0
    keep_databases: bool = False
    questions: Container[str] | None = None
    across_documents: bool = False

    def sources(self) -> Iterator[Source]:
        """The documents that are asked about here, with the items that are asked."""
        return restricted(self.benchmark.sources(), self.questions)

    def ways(self) -> list[Way]:
        """Method and what it heeds of each variation, without repeats; methods take turns."""
        pairs = ((name, variation) for variation in self.variations for name in self.methods)
        return list(dict.fromkeys((name, variation.heeded_by(METHODS[name])) for name, variation in pairs))

    def key(self, item: Item, way: Way) -> str:
        """Names one result."""
        return f"{self.benchmark.name}|{self.context_length}|{item.id}|{way[0]}|{way[1]}"

    def batches(self) -> Iterator[list[Asked]]:
        """All items in batches of one task, whose answers end together; always the same ones in the same order."""
        waiting: dict[tuple[str, int], list[Asked]] = {}  # for questions about other documents
        for source in self.sources():
            if not source.text:
                yield from ([Asked(source, item)] for item in source.items)
                continue
            groups: dict[tuple[str, int], list[Asked]] = {}  # such a source has no bad records
            for item in source.items:
                groups.setdefault((item.task, item.max_new_tokens), []).append(Asked(source, item))
            for kind, group in groups.items():
                whole = len(group) - len(group) % self.batch if self.across_documents else len(group)
                yield from (group[i : i + self.batch] for i in range(0, whole, self.batch))
                left = waiting.setdefault(kind, [])
                left += group[whole:]
                if len(left) >= self.batch:
                    yield left[: self.batch]
                    del left[: self.batch]
        yield from filter(None, waiting.values())


def run(
    engine: Engine,
    plan: EvaluationPlan,
    store: ResultStore | ElsewhereStore,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Answers what the store does not hold yet; yields each record once it is on disk, failures too.

    Args:
      engine: its drafter is used where a variation names none.
      progress: called with (answers done, answers in all), those of earlier runs included.

    Raises:
      ValueError: retrieval where there are only conversations, or unrelated retrieval from a single document.
      OSError: the results cannot be written.
    """
    ways = plan.ways()
    total = len(ways) * sum(len(source.items) for source in plan.sources())
    asker = _Asker(engine, plan, ways)
    done = 0
    for batch in plan.batches():
        for way in ways:
            if any(plan.key(asked.item, way) not in store for asked in batch):
                asker.use_drafter(way)
                records = [record for record in asker.records(batch, way) if record["key"] not in store]
                store.append(records)
                yield from records
            done += len(batch)
            if progress is not None:
                progress(done, total)


class _Asker:
    """Asks batches of a plan's items, and keeps the documents of the last one.

    Raises:
      ValueError: see `run`.
    """

    def __init__(self, engine: Engine, plan: EvaluationPlan, ways: Sequence[Way]):
        self._engine = engine
        self._plan = plan
        self._engines = {"": engine}
        self._read: dict[str, Document | Exception] = {}
        retrieving = next((name for name, _ in ways if METHODS[name].retrieves), None)
        conversation = any(
            not source.text and not item.problem for source in plan.benchmark.sources() for item in source.items
        )
        if retrieving and conversation:
            raise ValueError(f"method {retrieving} retrieves, and a conversation has no document to retrieve from")
        unrelated = any(variation.get("unrelated") for _, variation in ways)
        self._others = _following_texts(plan.benchmark) if unrelated else {}

    def use_drafter(self, way: Way) -> None:
        """Loads the drafter that a way names, once."""
        drafter = way[1].get("drafter", "")
        if drafter not in self._engines:
            self._engines[drafter] = self._engine.with_drafter(drafter)

    def records(self, batch: Sequence[Asked], way: Way) -> list[dict[str, Any]]:
        """A record for each row of a batch: where one of them cannot be asked, the others are asked without it.

        Raises:
          TooLittleMemory: for the documents of the batch together.
        """
        first = batch[0]
        if first.item.problem:
            return [self._failure(asked, way, asked.item.problem) for asked in batch]
        programs = self._engine.session.programs
        try:
            compiled = programs.count
            records = self._answered(batch, way)
            if not first.source.text and programs.count > compiled:
                # What XLA sets up in the first execution of a prefill would count against whoever is asked first, and
                # is long beside a short prompt: that answer is asked for again.
                records = self._answered(batch, way)
            return records
        except TooLittleMemory:  # no fault of a question
            raise
        except FAULTS as error:
            if len(batch) > 1:
                return [record for asked in batch for record in self.records([asked], way)]
            return [self._failure(first, way, _reason(error))]

    def _documents(self, batch: Sequence[Asked], way: Way) -> list[Document]:
        """Each row's document, the same object where it is the same one."""
        sources = {asked.source.id: asked for asked in batch}
        self._read = {name: read for name, read in self._read.items() if name in sources}  # free before others are read
        documents = {name: self._document(asked) for name, asked in sources.items()}
        if way[1].get("unrelated"):
            documents = {name: one.retrieving_from(self._others[name]) for name, one in documents.items()}
        return [documents[asked.source.id] for asked in batch]

    def _document(self, asked: Asked) -> Document:
        """The source as the engine reads it, once; a conversation's batch is a single item."""
        engine, source = self._engine, asked.source
        if not source.text:
            return engine.converse([{"role": "user", "content": asked.item.question}])
        if source.id not in self._read:
            try:
                template = source.template or self._plan.benchmark.template
                keep = _keep(engine, self._plan.prompt_tokens, template, source)
                self._read[source.id] = engine.read(
                    source.text,
                    template=template,
                    drafter_template=source.passages_template or None,
                    keep=keep,
                    prefill=False,
                )
            except FAULTS as error:
                self._read[source.id] = error
        read = self._read[source.id]
        if isinstance(read, Exception):
            raise read
        return read

    def _answered(self, batch: Sequence[Asked], way: Way) -> list[dict[str, Any]]:
        documents = self._documents(batch, way)
        answers = _ask(self._engines[way[1].get("drafter", "")], self._plan, documents, batch, way)
        return [
            {**self._head(asked, way), **_answer_fields(self._engine, self._plan, documents[row], batch, row, turns)}
            for row, (asked, turns) in enumerate(zip(batch, answers, strict=True))
        ]

    def _failure(self, asked: Asked, way: Way, reason: str) -> dict[str, Any]:
        logging.warning("%s with %s failed: %s", asked.item.id, way[0], reason)
        return {**self._head(asked, way), "question": asked.item.question, FAILED: reason}

    def _head(self, asked: Asked, way: Way) -> dict[str, Any]:
        """What an answer and a failure have in common: whose they are."""
        plan, item = self._plan, asked.item
        return {
            "key": plan.key(item, way),
            "benchmark": plan.benchmark.name,
            "context_length": plan.context_length,
            "source": asked.source.id,
            "item": item.id,
            "task": item.task,
            "groups": list(item.groups),
            "method": way[0],
            "variation": way[1].to_dict(),
        }


def _reason(error: Exception) -> str:
    """An error in one line; one that is not meant for users with its type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _following_texts(benchmark: Benchmark) -> dict[str, str]:
    """For each document, by its id, the text of the next one; for the last that of the first."""
    sources = [(source.id, source.text) for source in benchmark.sources() if source.text]
    if len(sources) < 2:
        raise ValueError("unrelated retrieval needs at least two documents")
    following = sources[1:] + sources[:1]
    return {name: text for (name, _), (_, text) in zip(sources, following, strict=True)}


def _keep(engine: Engine, prompt_tokens: int, template: str, source: Source) -> tuple[int, int] | None:
    """Tokens of the document that stay at its start and end, so that the prompt's first and last halves do."""
    if not prompt_tokens:
        return None
    prompt = Prompt(engine.target.tokenizer, template, engine.config.chat)
    bare = "".join(template.partition("{document}")[::2])
    head = len(engine.target.tokenizer.encode(bare.partition("{question}")[0]))
    longest = max(len(prompt.question(item.question)) for item in source.items)
    return max(prompt_tokens // 2 - head, 1), max(prompt_tokens // 2 - longest, 1)


def _ask(
    engine: Engine, plan: EvaluationPlan, documents: Sequence[Document], batch: Sequence[Asked], way: Way
) -> list[list[Answer]]:
    """Every row's answers, one a turn."""
    name, variation = way
    overrides = {"max_new_tokens": batch[0].item.max_new_tokens, **variation.overrides()}
    rows = [(document, asked.item) for document, asked in zip(documents, batch, strict=True)]
    full = rows if documents[0].is_conversation else rows + rows[-1:] * (plan.batch - len(rows))  # shapes stay the same
    chunk = engine.config.retrieval.chunk_tokens
    tokens = variation.get("retrieval_tokens")
    first = engine.ask_batch(
        [(document, item.question) for document, item in full],
        name,
        retrieval_queries=[item.retrieval_query for _, item in full],
        max_chunks=math.ceil(tokens / chunk) if tokens else None,
        **overrides,
    )
    answered = zip(rows, first, strict=False)
    return [_follow(engine, plan, document, item, [answer], name, overrides) for (document, item), answer in answered]


def _follow(
    engine: Engine,
    plan: EvaluationPlan,
    document: Document,
    item: Item,
    answers: list[Answer],
    name: str,
    overrides: dict[str, Any],
) -> list[Answer]:
    """The turns after the first, without the document: with the same method, or plainly where it needs passages."""
    while (turn := plan.benchmark.follow_up(item, [answer.text for answer in answers])) is not None:
        document = engine.converse(turn.messages, after=document if plan.keep_databases else None)
        settings = {**overrides, "max_new_tokens": turn.max_new_tokens}
        method = "lc" if METHODS[name].retrieves else name
        answers.append(document.ask(turn.messages[-1]["content"], method, **settings))
    return answers


def _answer_fields(
    engine: Engine,
    plan: EvaluationPlan,
    document: Document,
    batch: Sequence[Asked],
    row: int,
    answers: Sequence[Answer],
) -> dict[str, Any]:
    """What a result holds of the answers, one a turn, to the item of a batch's row."""
    item, first = batch[row].item, answers[0]
    prompt = [*document.token_ids, *document.prompt(engine.target).question(item.question)]
    return {
        "batch": {"first": batch[0].item.id, "size": first.batch_size, "row": row},
        "prompt_hash": hashlib.sha256(np.asarray(prompt, np.int32).tobytes()).hexdigest()[:16],
        "question": item.question,
        "reference": item.reference,
        "scores": plan.benchmark.score(item, [answer.text for answer in answers]),
        "turns": [_turn(answer) for answer in answers],
        "settings": first.settings,
    }


def _turn(answer: Answer) -> dict[str, Any]:
    """An answer without what all results have in common."""
    fields = answer.to_dict()
    fields["context"]["passages"] = [
        {name: passage[name] for name in ("start", "end", "score")} for passage in fields["context"]["passages"]
    ]
    kept = ("text", "token_ids", "finish_reason", "context", "seconds", "tokens_per_second", "acceptance")
    return {name: fields[name] for name in kept}
