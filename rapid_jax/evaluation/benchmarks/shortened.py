"""A benchmark with shorter answers than its authors allow, for machines on which theirs take too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapid_jax.evaluation.benchmarks.base import Benchmark, FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import fingerprint


class Shortened:
    """The same items, none of whose answers is longer than a number of tokens; see `base.Benchmark`.

    Args:
      benchmark: what is shortened.
      max_new_tokens: tokens of an answer at most, at every turn; a smaller limit of an item's own stays.

    Raises:
      ValueError: less than one token.
    """

    def __init__(self, benchmark: Benchmark, max_new_tokens: int):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.name, self.template, self.metrics = benchmark.name, benchmark.template, benchmark.metrics
        self.sampling: Mapping[str, Any] = benchmark.sampling
        self._benchmark, self._most = benchmark, max_new_tokens
        self.fingerprint = fingerprint({"max_new_tokens": max_new_tokens, "of": benchmark.fingerprint})

    def sources(self) -> Iterator[Source]:
        """All documents."""
        for source in self._benchmark.sources():
            items = tuple(
                dataclasses.replace(item, max_new_tokens=min(item.max_new_tokens, self._most)) for item in source.items
            )
            yield dataclasses.replace(source, items=items)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """As the benchmark has it, and as short."""
        turn = self._benchmark.follow_up(item, answers)
        if turn is None:
            return None
        return dataclasses.replace(turn, max_new_tokens=min(turn.max_new_tokens, self._most))

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """As the benchmark has it: what an answer loses by its length counts."""
        return self._benchmark.score(item, answers)
