"""Items with the same document share one source, so that the document is read once."""

from __future__ import annotations

from collections.abc import Iterable

from rapid_jax.evaluation.benchmarks.base import Item, Source
from rapid_jax.evaluation.benchmarks.files import Record


def by_document(rows: Iterable[tuple[Record, str, Item]]) -> tuple[Source, ...]:
    """Sources in the order in which their documents first appear, each with its items in order.

    Args:
      rows: where an item was read, its document and itself.

    Raises:
      ValueError: two items have the same id.
    """
    documents: dict[str, list[Item]] = {}
    seen: set[str] = set()
    for record, text, item in rows:
        if item.id in seen:
            raise record.error(f"id {item.id!r} appears twice")
        seen.add(item.id)
        documents.setdefault(text, []).append(item)
    return tuple(
        Source(f"document-{number}", text, tuple(items))
        for number, (text, items) in enumerate(documents.items(), start=1)
    )
