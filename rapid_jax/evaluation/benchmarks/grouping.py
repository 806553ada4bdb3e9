"""Items with the same document share one source, so that the document is read once; bad records are kept apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from rapid_jax.evaluation.benchmarks.base import Item, Source
from rapid_jax.evaluation.benchmarks.files import Record

BAD = "bad records"  # the source of items that cannot be asked


@dataclasses.dataclass(frozen=True)
class Row:
    """An item, the document that it is about, the record that it was read from, and its templates as in Source."""

    record: Record
    text: str
    item: Item
    template: str = ""
    passages_template: str = ""


def bad_item(record: Record, problem: str, task: str, name: str = "") -> Item:
    """An item that stands for a bad record. It is never asked; its name is the record's place unless one is given."""
    return Item(name or record.where.rpartition(", ")[2], task, "", "", None, 1, problem=" ".join(problem.split()))


def rows_of(
    records: Iterable[Record], make: Callable[[Record], Row], task: str, *, keep_bad: bool = False
) -> Iterator[Row]:
    """A row for each record, made by `make`; with `keep_bad` a record that it refuses becomes a `bad_item` of the task.

    Raises:
      ValueError: from `make`, without `keep_bad`.
    """
    for record in records:
        try:
            row = make(record)
        except ValueError as error:
            if not keep_bad:
                raise
            row = Row(record, "", bad_item(record, str(error), task))
        yield row


def by_document(rows: Iterable[Row], *, keep_bad: bool = False) -> tuple[Source, ...]:
    """Sources in the order in which their documents first appear, each with its items in order, then the bad records.

    Args:
      rows: what was read.
      keep_bad: an item whose id another one has becomes a bad record, instead of an error.

    Raises:
      ValueError: two items have the same id, or all records are bad: the first one is named.
    """
    documents: dict[tuple[str, str, str], list[Item]] = {}
    bad: list[Item] = []
    seen: set[str] = set()
    for row in rows:
        item = row.item
        if not item.problem and item.id in seen:
            error = row.record.error(f"id {item.id!r} appears twice")
            if not keep_bad:
                raise error
            item = bad_item(row.record, str(error), item.task)
        if item.problem:
            bad.append(item)
            continue
        seen.add(item.id)
        documents.setdefault((row.text, row.template, row.passages_template), []).append(item)
    return with_bad(
        [
            Source(f"document-{number}", text, tuple(items), *templates)
            for number, ((text, *templates), items) in enumerate(documents.items(), start=1)
        ],
        bad,
    )


def with_bad(sources: Sequence[Source], bad: Sequence[Item]) -> tuple[Source, ...]:
    """The sources and, behind them, one of the items that cannot be asked, if there are any.

    Raises:
      ValueError: there is nothing else; gives the first one's problem.
    """
    if bad and not sources:
        raise ValueError(bad[0].problem)
    return (*sources, Source(BAD, "", tuple(bad))) if bad else tuple(sources)
