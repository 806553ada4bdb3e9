"""Several documents in one batch: each is read alone, as for a question of its own, and copied into its row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache
from models.context_rows import copy_row, empty_rows
from models.memory import TooLittleMemory, free_bytes, kv_bytes_per_token
from rapid_jax.decoding.buckets import context_bucket
from rapid_jax.decoding.programs import shardings_of
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.session import Session

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document


def read_together(session: Session, documents: Sequence[Document]) -> PrefilledContext:
    """The target's context of several documents, a row each.

    What a row holds does not depend on the others: a document that has been read is copied from its own cache, any
    other is read alone first. Equal ones are read once and have a row each. Methods that are compared ask for the same
    documents, so what was read together last is not read again.

    Args:
      session: whose target reads.
      documents: one a row, a multiple of the mesh's data axis.

    Raises:
      TooLittleMemory: the rows, and the longest document that is still to be read, do not fit what is free.
    """
    rows = [document.token_ids for document in documents]
    return session.last_together(rows, lambda: _read(session, documents, rows))


def _read(session: Session, documents: Sequence[Document], rows: Sequence[Sequence[int]]) -> PrefilledContext:
    capacity = context_bucket(max(map(len, rows)), session.config.prefill_chunk)
    unread = [len(row) for document, row in zip(documents, rows, strict=True) if not document.is_read]
    hosts.on_all(lambda: check_memory(session, len(rows), capacity, max(unread, default=0)))
    places: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(tuple(row), []).append(index)
    contexts: ContextCache | None = None
    seconds = 0.0
    for indices in places.values():
        read = next((documents[i] for i in indices if documents[i].is_read), documents[indices[0]]).read_once()
        if contexts is None:
            contexts = empty_rows(read.cache, len(rows), capacity, session.target.decoder.mesh)
        copy = functools.partial(_copied, session, contexts, read.cache, indices)
        contexts, copying = session.programs.timed(copy)
        seconds += read.seconds + copying
    assert contexts is not None
    return PrefilledContext(rows, contexts, seconds)


def _copied(session: Session, contexts: ContextCache, context: ContextCache, rows: Sequence[int]) -> ContextCache:
    """A context copied into these rows."""
    mesh = session.target.decoder.mesh
    for row in rows:
        at = hosts.put(np.int32(row), None if mesh is None else NamedSharding(mesh, P()))
        args = (contexts, context, at)
        run = session.programs.get(copy_row, (mesh,), args, donate=(0,), out_shardings=shardings_of(contexts))
        contexts = run(*args)
    return contexts


def check_memory(session: Session, rows: int, capacity: int, unread: int) -> None:
    """Compares what contexts of several documents take with what is free, where the platform says it.

    Args:
      session: the target, its mesh, and how keys and values are kept.
      rows: of the batch.
      capacity: slots of each row.
      unread: tokens of the longest document that is read beside them; 0 where all have been read.

    Raises:
      TooLittleMemory: they do not fit; names the bytes and the remedies.
    """
    target, config = session.target, session.config
    mesh, dtype = target.decoder.mesh, target.decoder.dtype
    free = free_bytes(mesh)
    if free is None:
        return
    data, slots, heads = (1, 1, 1) if mesh is None else tuple(mesh.shape[axis] for axis in ("data", "context", "model"))
    own = context_bucket(unread, config.prefill_chunk) if unread else 0
    reading = own * kv_bytes_per_token(target.config, dtype) // (slots * heads)
    held = rows * capacity * kv_bytes_per_token(target.config, dtype, config.kv) // (data * slots * heads)
    needed = (2 if config.drafter_mesh else 1) * held + reading  # two lanes copy each row: decoding.apart
    if needed > free:
        narrow = "" if config.kv else ', keep keys and values in fewer bits (kv="int8")'
        raise TooLittleMemory(
            f"documents of up to {capacity:,} tokens in {rows} rows need {needed:,} bytes of a device for keys and "
            f"values, {free:,} are free: ask about fewer of them at once, set max_context_tokens lower{narrow}"
        )
