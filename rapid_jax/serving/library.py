"""Documents of the server: uploaded ones by name, others by their text; what the target has read of them is kept.

Keys and values stay in memory up to a limit, and on disk behind it where there is a store. The texts of uploaded
documents stay until they are deleted, so that one which had to go from memory is read or opened again. All but the
listing is for the worker's thread alone.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import threading
import time
from typing import Any

import jax
from absl import logging

from models.fields import shown
from models.memory import kv_bytes_per_token
from models.progress import ProgressCallback
from rapid_jax.engine.document import Document
from rapid_jax.engine.engine import Engine
from rapid_jax.saving.store import DocumentStore
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.reading import TEMPLATE

_MOST_MESSAGES = 64  # documents out of messages whose texts are known; those that were used longest ago go


@dataclasses.dataclass(eq=False)
class Held:
    """A document that the server knows.

    Attributes:
      id: made of its text and of the prompt around it: the same text is the same document.
      name: that a user gave it; "" for one that stood in a message.
      document: tokenised, and read where it is in memory.
      created: seconds since 1970.
      used: a number that grows with every use.
      pins: batches that read it just now.
    """

    id: str
    name: str
    document: Document
    created: int
    used: int = 0
    pins: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values in memory."""
        document = self.document  # another thread may let go of it meanwhile
        return sum(x.nbytes for x in jax.tree.leaves(document.context)) if document.is_read else 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that clients see."""
        return {
            "id": self.id,
            "object": "document",
            "name": self.name,
            "created_at": self.created,
            "characters": len(self.document.text),
            "tokens": self.document.num_tokens,
            "truncated_tokens": self.document.tokenized.truncated_tokens,
            "in_memory": self.document.is_read,
        }


class Library:
    """All documents.

    Args:
      engine: reads them.
      memory_bytes: of keys and values in memory; one document may exceed it alone.
      max_documents: that may be uploaded.
      store: on disk; None keeps nothing there.
      progress: called with (tokens read, tokens in all) between the chunks of a document; what it raises ends the
        reading.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        memory_bytes: int,
        max_documents: int,
        store: DocumentStore | None = None,
        progress: ProgressCallback | None = None,
    ):
        self._engine, self._store, self._progress = engine, store, progress
        self._memory_bytes, self._max_documents = memory_bytes, max_documents
        self._held: dict[str, Held] = {}
        self._clock = itertools.count(1)
        self._lock = threading.Lock()  # of the dictionary: listings come from other threads
        self._saving = concurrent.futures.ThreadPoolExecutor(1, "rapid_jax saves")

    def listed(self) -> list[Held]:
        """Uploaded documents, the oldest first."""
        with self._lock:
            return [held for held in self._held.values() if held.name]

    def get(self, id_: str) -> Held:
        """A document that was uploaded.

        Raises:
          ApiError: there is none of this id.
        """
        with self._lock:
            held = self._held.get(id_)
        if held is None or not held.name:
            message = f"there is no document {shown(id_)}: upload it to /v1/documents"
            raise ApiError(404, message, code="document_not_found", param="document")
        return held

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values in memory."""
        with self._lock:
            return sum(held.nbytes for held in self._held.values())

    def upload(self, text: str, name: str) -> Held:
        """Takes in a document by name; the same text again is the same document under the new name.

        Raises:
          ApiError: too many documents.
          ValueError: an empty text, or one that is too long where the engine's truncation is "error".
        """
        held = self._found(text, self._engine.config.prompt)
        if held is None and len(self.listed()) >= self._max_documents:
            raise ApiError(400, f"there are {self._max_documents} documents: delete one first", code="library_full")
        held = held or self._added(text, self._engine.config.prompt)
        held.name = name
        return held

    def of_message(self, text: str) -> Held:
        """The document of a text that stood in a message.

        Raises:
          ValueError: as `upload`.
        """
        held = self._found(text, TEMPLATE) or self._added(text, TEMPLATE)
        with self._lock:
            unnamed = sorted((other for other in self._held.values() if not other.name), key=lambda other: other.used)
            for other in unnamed[: max(0, len(unnamed) - _MOST_MESSAGES)]:
                if not other.pins:
                    del self._held[other.id]
        return held

    def knows(self, text: str) -> bool:
        """Whether a text that stood in a message is known, whatever its length."""
        return self._found(text, TEMPLATE) is not None

    def read(self, held: Held) -> int:
        """Sees to it that the target has read a document; what was used longest ago goes from memory for it.

        Returns:
          Tokens that had been read before.
        """
        held.used = next(self._clock)
        if held.document.is_read:
            return held.document.num_tokens
        target, config = self._engine.target, self._engine.config
        per_token = kv_bytes_per_token(target.config, target.decoder.dtype, config.kv)
        self._make_room(held.document.num_tokens * per_token)
        if not self._opened(held):
            held.document.context  # noqa: B018  (computed on first use)
            self._keep(held.document)
        return 0

    def _opened(self, held: Held) -> bool:
        """Whether a document that had to go from memory could be opened from disk."""
        if self._store is None:
            return False
        place = self._store.find(key := held.document.key)
        if place is None:
            return False
        try:
            opened = self._engine.open(place)
        except (ValueError, FileNotFoundError) as error:
            logging.warning("a kept document is not used: %s", error)
            self._store.forget(key)
            return False
        opened.copied_before, held.document = held.document.copied_before, opened
        return True

    def remove(self, id_: str) -> None:
        """Forgets an uploaded document, on disk too; answers under way are finished.

        Raises:
          ApiError: there is none of this id.
        """
        held = self.get(id_)
        with self._lock:
            del self._held[id_]
        if self._store is not None:
            key, store = held.document.key, self._store
            self._saving.submit(store.forget, key)

    def close(self) -> None:
        """Waits for what is being saved."""
        self._saving.shutdown()

    def _found(self, text: str, template: str) -> Held | None:
        with self._lock:
            return self._held.get(_id_of(text, template))

    def _added(self, text: str, template: str) -> Held:
        """A document that is new: tokenised, and opened where it is in the store."""
        document = self._engine.read(text, template=template, prefill=False, progress=self._progress, store=self._store)
        held = Held(_id_of(text, template), "", document, int(time.time()), next(self._clock))
        with self._lock:
            self._held[held.id] = held
        if document.is_read:
            self._make_room(0, keep=held)
        return held

    def _make_room(self, needed: int, keep: Held | None = None) -> None:
        """Lets go of what was used longest ago until so many bytes fit; what is read just now stays."""
        with self._lock:
            read = sorted((held for held in self._held.values() if held.document.is_read), key=lambda held: held.used)
        total = sum(held.nbytes for held in read) + needed
        for held in read:
            if total <= self._memory_bytes:
                return
            if not held.pins and held is not keep:
                total -= held.nbytes
                held.document = held.document.unread()

    def _keep(self, document: Document) -> None:
        """Saves in the background what has just been read."""
        if self._store is None:
            return
        self._saving.submit(_saved, document, self._store)


def _saved(document: Document, store: DocumentStore) -> None:
    try:
        document.keep(store)
    except (OSError, ValueError) as error:
        logging.warning("a document is not kept on disk: %s", error)


def _id_of(text: str, template: str) -> str:
    digest = hashlib.sha256(f"{template}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"doc-{digest[:24]}"
