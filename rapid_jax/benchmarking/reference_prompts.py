"""Prompts of three kinds about real text (rapid_jax.evaluation.benchmarks.reference), as a benchmark decodes them."""

from __future__ import annotations

from collections.abc import Iterator

from rapid_jax.benchmarking.prompts import BenchmarkPrompts, head_tokens, prompts_about
from rapid_jax.engine.engine import Engine
from rapid_jax.evaluation.benchmarks.reference import documents


def reference_prompts(engine: Engine, tokens: int, number: int) -> Iterator[BenchmarkPrompts]:
    """A prompt of each kind about each document; those about one document follow each other.

    Args:
      engine: with a `benchmark_config`.
      tokens: of each document and what precedes it, at most and nearly.
      number: documents, at most reference.MOST.

    Raises:
      ValueError: too few tokens for a section.
    """
    tokenizer = engine.target.tokenizer
    room = tokens - head_tokens(engine)
    for _, text, asked in documents(room, lambda part: len(tokenizer.encode(part)), number):
        about = prompts_about(engine, text, list(asked.values()))
        for kind, prompts in zip(asked, about.each(), strict=True):
            yield prompts.of_kind(kind)
