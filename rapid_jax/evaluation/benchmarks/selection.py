"""Part of a benchmark: some of its tasks, and so many items of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rapid_jax.evaluation.benchmarks.base import Benchmark, FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import fingerprint


def restricted(sources: Iterable[Source], ids: Container[str] | None) -> Iterator[Source]:
    """The sources with those of their items that are named, all for None; a source that has none is left out."""
    for source in sources:
        items = tuple(item for item in source.items if ids is None or item.id in ids)
        if items:
            yield dataclasses.replace(source, items=items)


class Selection:
    """The items of some tasks or groups, in their order, up to a number of each task; see `base.Benchmark`.

    Args:
      benchmark: what is selected from.
      names: tasks or groups; empty takes all.
      limit: items of each task at most; None takes all.

    Raises:
      ValueError: a name that no item has, or a limit below 1.
    """

    def __init__(self, benchmark: Benchmark, *, names: Sequence[str] = (), limit: int | None = None):
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 item, got {limit}")
        self.name, self.template, self.metrics = benchmark.name, benchmark.template, benchmark.metrics
        self.sampling: Mapping[str, Any] = benchmark.sampling
        self._benchmark = benchmark
        items = [item for source in benchmark.sources() for item in source.items]
        known = dict.fromkeys(name for item in items for name in (item.task, *item.groups))
        for name in names:
            if name not in known:
                raise ValueError(f"{benchmark.name} has no task {name!r}; known: {', '.join(known)}")
        taken: dict[str, int] = {}
        self._chosen = set()
        for item in items:
            wanted = not names or not {item.task, *item.groups}.isdisjoint(names)
            if wanted and (limit is None or taken.get(item.task, 0) < limit):
                taken[item.task] = taken.get(item.task, 0) + 1
                self._chosen.add(item.id)
        self.fingerprint = fingerprint({"names": list(names), "limit": limit, "of": benchmark.fingerprint})

    def sources(self) -> Iterator[Source]:
        """Documents that have chosen items."""
        return restricted(self._benchmark.sources(), self._chosen)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """As the whole benchmark has it."""
        return self._benchmark.follow_up(item, answers)

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """As the whole benchmark has it."""
        return self._benchmark.score(item, answers)
