"""Asks a benchmark's questions with several methods and settings, and keeps every answer as it comes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rapid_jax.config.methods import METHODS
from rapid_jax.engine import Document, Engine
from rapid_jax.engine.answer import Answer
from rapid_jax.engine.prompt import Prompt
from rapid_jax.evaluation.benchmarks.base import Benchmark, Item, Source
from rapid_jax.evaluation.store import ElsewhereStore, ResultStore
from rapid_jax.evaluation.variation import Variation


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked.

    Attributes:
      benchmark: documents and items.
      context_length: tokens of the documents or prompts, as the results name it.
      methods: names in rapid_jax.METHODS.
      variations: a method is asked once for each that differs in what concerns it.
      batch: questions about one document that are decoded together.
      prompt_tokens: longer prompts lose their middle until they have so many; 0 leaves that to the model's limit.
      keep_databases: n-gram databases go on from one turn of a conversation to the next.
    """

    benchmark: Benchmark
    context_length: int
    methods: Sequence[str]
    variations: Sequence[Variation]
    batch: int
    prompt_tokens: int = 0
    keep_databases: bool = False

    def ways(self) -> list[tuple[str, Variation]]:
        """Method and what it heeds of each variation, without repeats; methods take turns."""
        pairs = ((name, variation) for variation in self.variations for name in self.methods)
        return list(dict.fromkeys((name, variation.heeded_by(METHODS[name])) for name, variation in pairs))

    def key(self, item: Item, way: tuple[str, Variation]) -> str:
        """Names one result."""
        return f"{self.benchmark.name}|{self.context_length}|{item.id}|{way[0]}|{way[1]}"

    def batches(self, source: Source) -> list[list[Item]]:
        """A source's items in batches of one task, whose answers end together; always the same ones."""
        if not source.text:
            return [[item] for item in source.items]
        groups: dict[tuple[str, int], list[Item]] = {}
        for item in source.items:
            groups.setdefault((item.task, item.max_new_tokens), []).append(item)
        return [group[i : i + self.batch] for group in groups.values() for i in range(0, len(group), self.batch)]


def run(
    engine: Engine, plan: Plan, store: ResultStore | ElsewhereStore, progress: Callable[[int, int], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Answers what the store does not hold yet; yields each record once it is on disk.

    Args:
      engine: its drafter is used where a variation names none.
      progress: called with (answers done, answers in all), those of earlier runs included.

    Raises:
      ValueError: a prompt with no room in the model, or unrelated retrieval from a single document.
    """
    ways = plan.ways()
    total = len(ways) * sum(len(source.items) for source in plan.benchmark.sources())
    unrelated = any(way[1].get("unrelated") for way in ways)
    others = _following_texts(plan.benchmark) if unrelated else itertools.repeat("")
    engines = {"": engine}
    done = 0
    for source, other in zip(plan.benchmark.sources(), others, strict=False):
        document: Document | None = None
        for batch in plan.batches(source):
            for way in ways:
                if any(plan.key(item, way) not in store for item in batch):
                    drafter = way[1].get("drafter", "")
                    if drafter not in engines:
                        engines[drafter] = engine.with_drafter(drafter)
                    if document is None or not source.text:
                        document = _document(engine, plan, source, batch)
                    asked = document.retrieving_from(other) if way[1].get("unrelated") else document
                    answers = _ask(engines[drafter], plan, asked, batch, way)
                    records = [
                        _record(engine, plan, source, asked, batch, row, way, turns)
                        for row, turns in enumerate(answers)
                    ]
                    records = [record for record in records if record["key"] not in store]
                    store.append(records)
                    yield from records
                done += len(batch)
                if progress is not None:
                    progress(done, total)


def _following_texts(benchmark: Benchmark) -> Iterator[str]:
    """For each source the text of the next one, for the last that of the first."""
    texts = (source.text for source in itertools.chain(benchmark.sources(), benchmark.sources()))
    if len(list(itertools.islice((source.id for source in benchmark.sources()), 2))) < 2:
        raise ValueError("unrelated retrieval needs at least two documents")
    return itertools.islice(texts, 1, None)


def _document(engine: Engine, plan: Plan, source: Source, batch: Sequence[Item]) -> Document:
    """The source as the engine reads it; a conversation's batch is a single item."""
    if not source.text:
        return engine.converse([{"role": "user", "content": batch[0].question}])
    keep = _keep(engine, plan, source)
    return engine.read(source.text, template=plan.benchmark.template, keep=keep, prefill=False)


def _keep(engine: Engine, plan: Plan, source: Source) -> tuple[int, int] | None:
    """Tokens of the document that stay at its start and end, so that the prompt's first and last halves do."""
    if not plan.prompt_tokens:
        return None
    prompt = Prompt(engine.target.tokenizer, plan.benchmark.template, engine.config.chat)
    bare = "".join(plan.benchmark.template.partition("{document}")[::2])
    head = len(engine.target.tokenizer.encode(bare.partition("{question}")[0]))
    longest = max(len(prompt.question(item.question)) for item in source.items)
    return max(plan.prompt_tokens // 2 - head, 1), max(plan.prompt_tokens // 2 - longest, 1)


def _ask(
    engine: Engine, plan: Plan, document: Document, batch: Sequence[Item], way: tuple[str, Variation]
) -> list[list[Answer]]:
    """Every item's answers, one a turn."""
    name, variation = way
    overrides = {"max_new_tokens": batch[0].max_new_tokens, **variation.overrides()}
    full = list(batch)
    if document.tokenized.tokens:
        full += [batch[-1]] * (plan.batch - len(batch))  # shapes stay the same
    chunk = engine.config.retrieval.chunk_tokens
    tokens = variation.get("retrieval_tokens")
    first = engine.ask_many(
        document,
        [item.question for item in full],
        name,
        retrieval_queries=[item.retrieval_query for item in full],
        max_chunks=math.ceil(tokens / chunk) if tokens else None,
        **overrides,
    )
    answered = zip(batch, first, strict=False)
    return [_follow(engine, plan, document, item, [answer], name, overrides) for item, answer in answered]


def _follow(
    engine: Engine,
    plan: Plan,
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


def _record(
    engine: Engine,
    plan: Plan,
    source: Source,
    document: Document,
    batch: Sequence[Item],
    index: int,
    way: tuple[str, Variation],
    answers: Sequence[Answer],
) -> dict[str, Any]:
    item, first = batch[index], answers[0]
    prompt = [*document.head, *document.tokenized.tokens, *document.prompt(engine.target).question(item.question)]
    return {
        "key": plan.key(item, way),
        "benchmark": plan.benchmark.name,
        "context_length": plan.context_length,
        "source": source.id,
        "item": item.id,
        "task": item.task,
        "groups": list(item.groups),
        "method": way[0],
        "variation": way[1].to_dict(),
        "batch": {"first": batch[0].id, "size": first.batch_size, "row": index},
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
