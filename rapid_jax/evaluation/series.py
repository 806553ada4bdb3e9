"""Results as series: what one method with one setting answered at one context length, and what it cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

_GOOD = 0.5  # a score from here on counts as success where success and failure are told apart


@dataclasses.dataclass(frozen=True)
class Key:
    """Which answers belong together.

    Attributes:
      context_length: tokens.
      method: its name.
      variation: (name, value) pairs of what was varied.
    """

    context_length: int
    method: str
    variation: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Method and setting, as a table shows them."""
        shown = ", ".join(_setting(name, value) for name, value in self.variation)
        return f"{self.method} ({shown})" if shown else self.method


def _setting(name: str, value: Any) -> str:
    if name == "drafter":
        return f"{Path(str(value)).name} drafts" if value else "self"
    if name == "unrelated":
        return "unrelated passages" if value else "related passages"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {shown}"


@dataclasses.dataclass(frozen=True)
class Series:
    """The answers of one key, in the order of the items."""

    key: Key
    records: tuple[Result, ...]

    def restricted(self, items: Iterable[str]) -> Series:
        """The answers to these items alone."""
        wanted = set(items)
        return Series(self.key, tuple(record for record in self.records if record["item"] in wanted))

    @functools.cached_property
    def by_item(self) -> dict[str, Result]:
        return {record["item"]: record for record in self.records}

    def tasks(self) -> dict[str, list[Result]]:
        """Records by task, in the order of their first appearance."""
        groups: dict[str, list[Result]] = {}
        for record in self.records:
            groups.setdefault(record["task"], []).append(record)
        return groups

    def groups(self) -> dict[str, list[Result]]:
        """Records by the further rows that they count in."""
        groups: dict[str, list[Result]] = {}
        for record in self.records:
            for group in record["groups"]:
                groups.setdefault(group, []).append(record)
        return groups

    def scores(self, metric: str) -> dict[str, list[float]]:
        """One metric of every answer, by task."""
        return {task: [record["scores"][metric] for record in records] for task, records in self.tasks().items()}


def baseline(series: Sequence[Series], one: Series, method: str) -> Series | None:
    """The series of another method at the same length that heeds the same of what was varied, or None.

    At temperature 1 a method is compared with lc at temperature 1; where eta alone was varied, with the only lc.
    """
    for other in series:
        same_length = other.key.context_length == one.key.context_length
        if same_length and other.key.method == method and set(other.key.variation) <= set(one.key.variation):
            return other
    return None


def speed_up(one: Series, other: Series | None) -> tuple[float, float]:
    """How much faster a series is than another one on the items that both have answered: (decoding, end to end).

    nan where there is no such item, or a clock saw no time pass.
    """
    costs = shared_costs(one, other) if other is not None else None
    if costs is None:
        return math.nan, math.nan
    ours, theirs = costs
    return ratio(ours.tokens_per_second, theirs.tokens_per_second), ratio(theirs.end_to_end, ours.end_to_end)


def ratio(part: float, whole: float) -> float:
    """A quotient; nan over nothing."""
    return part / whole if whole else math.nan


def shared_costs(one: Series, other: Series) -> tuple[Cost, Cost] | None:
    """Both series' costs of the items that both have answered; None where there are none."""
    shared = one.by_item.keys() & other.by_item.keys()
    if not shared:
        return None
    return cost(one.restricted(shared).records), cost(other.restricted(shared).records)


def scored(series: Sequence[Series], metric: str) -> list[Series]:
    """The answers that have a metric: not every task has every one."""
    parts = [Series(one.key, tuple(r for r in one.records if metric in r["scores"])) for one in series]
    return [part for part in parts if part.records]


def read_series(records: Iterable[Result]) -> list[Series]:
    """Series in the order of context length, then of first appearance; items in a fixed order."""
    groups: dict[Key, list[Result]] = {}
    for record in records:
        key = Key(record["context_length"], record["method"], tuple(record["variation"].items()))
        groups.setdefault(key, []).append(record)
    ordered = sorted(groups, key=lambda key: key.context_length)
    return [Series(key, tuple(sorted(groups[key], key=lambda r: (r["task"], _natural(r["item"]))))) for key in ordered]


def _natural(text: str) -> tuple:
    def is_number(part: str) -> bool:
        return part.isdecimal() and len(part) < 20

    return tuple((0, int(part), "") if is_number(part) else (1, 0, part) for part in text.replace("-", " ").split())


@dataclasses.dataclass(frozen=True)
class Cost:
    """What answers cost; seconds are those of their batches, each counted once.

    Attributes:
      answers, tokens, steps: counts; tokens and steps of all turns of all rows.
      batches: how many, a part of one counted as such.
      decode, retrieval, prefill: seconds of all batches; each counts the prefill of its document.
      tested, proposed, accepted: drafted tokens.
      drafter_forwards: of a drafting model.
      by_source: accepted tokens by the database that they come from.
    """

    answers: int
    tokens: int
    steps: int
    batches: float
    decode: float
    retrieval: float
    prefill: float
    proposed: int
    tested: int
    accepted: int
    drafter_forwards: int
    by_source: dict[str, int]

    @property
    def tokens_per_second(self) -> float:
        """Decoding alone."""
        return ratio(self.tokens, self.decode)

    @property
    def prefill_seconds(self) -> float:
        """Prefill of a batch: the document, its questions, and the drafter's contexts."""
        return self.prefill / self.batches

    @property
    def end_to_end(self) -> float:
        """Seconds from a document to the answers of a batch: retrieval, prefill and decoding."""
        return (self.retrieval + self.prefill + self.decode) / self.batches

    @property
    def tokens_per_step(self) -> float:
        return ratio(self.tokens, self.steps)

    def kept_over(self, what: str) -> float | None:
        """Accepted drafted tokens over those "tested" or "proposed"; None where nothing was drafted."""
        whole = getattr(self, what)
        return self.accepted / whole if whole else None


def cost(records: Sequence[Result]) -> Cost:
    """Adds up what records cost. At least one record.

    A batch's seconds are in each of its rows' records; a row's share of them is one part in the batch's size, counted
    up to the rows that are there (a last batch is filled up with copies, whose time is nobody's).
    """
    batches = sum(1 / record["batch"]["size"] for record in records)
    counted = ("tokens", "steps", "proposed", "tested", "accepted", "drafter_forwards")
    totals = dict.fromkeys((*counted, "decode", "retrieval", "prefill"), 0.0)
    by_source: dict[str, int] = {}
    for record in records:
        for turn, answer in enumerate(record["turns"]):
            rows = record["batch"]["size"] if turn == 0 else 1
            totals["tokens"] += len(answer["token_ids"])
            for name in ("decode", "retrieval", "prefill"):
                totals[name] += answer["seconds"][name] / rows
            acceptance = answer["acceptance"]
            for name in ("steps", "proposed", "tested", "accepted", "drafter_forwards"):
                totals[name] += acceptance.get(name, 0)  # older results do not count the drafter's forwards
            for name, count in acceptance.get("accepted_by_source", {}).items():
                by_source[name] = by_source.get(name, 0) + count
    return Cost(
        answers=len(records),
        batches=batches,
        **{name: int(totals[name]) for name in counted},
        by_source=by_source,
        decode=totals["decode"],
        retrieval=totals["retrieval"],
        prefill=totals["prefill"],
    )


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Questions by what two methods made of them: "good" means a score of at least one half."""

    both: int
    only_baseline: int
    only_method: int
    neither: int

    @property
    def relative_success(self) -> float | None:
        """Share of the baseline's failures that the method answers (RAPID, arXiv 2502.20330, Figure 2)."""
        failures = self.only_method + self.neither
        return self.only_method / failures if failures else None

    @property
    def relative_failure(self) -> float | None:
        """Share of the baseline's successes that the method gets wrong."""
        successes = self.both + self.only_baseline
        return self.only_baseline / successes if successes else None


def outcomes(method: Series, baseline: Series, metric: str) -> Outcomes:
    """Counts over the items that both have answered."""
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for item in method.by_item.keys() & baseline.by_item.keys():
        ours, theirs = (series.by_item[item]["scores"][metric] >= _GOOD for series in (method, baseline))
        counts[ours, theirs] += 1
    return Outcomes(counts[True, True], counts[False, True], counts[True, False], counts[False, False])


def same_answers(method: Series, baseline: Series) -> tuple[int, int]:
    """(answers with the baseline's very tokens, items that both have answered)."""
    shared = method.by_item.keys() & baseline.by_item.keys()
    equal = sum(
        [turn["token_ids"] for turn in method.by_item[item]["turns"]]
        == [turn["token_ids"] for turn in baseline.by_item[item]["turns"]]
        for item in shared
    )
    return equal, len(shared)
