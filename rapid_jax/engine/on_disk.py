"""Documents on disk, as the engine sees them: what of a document is saved, and how it is made again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapid_jax.config.chat import ChatConfig
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.prompt import Prompt, Templates, TokenizedDocument
from rapid_jax.engine.session import Session
from rapid_jax.saving.document import Reader, SavedDocument, open_saved, save
from rapid_jax.saving.store import key_of

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document


def save_document(session: Session, document: Document, path: Path) -> int:
    """Writes what a document's target has read, with its index if it has one; see `Document.save`."""
    templates = document.templates
    assert templates is not None  # no conversation
    reader = reader_of(session)
    saved = SavedDocument(
        text=document.text,
        tokenized=dataclasses.asdict(document.tokenized),
        head=document.head,
        template=templates.document,
        passages_template=templates.passages,
        chat=dataclasses.asdict(templates.chat),
        context=document.context,
        prefill_seconds=document.prefill_seconds,
        copied_before=document.copied_before,
        index=document.index.known if document.is_indexed else None,
        retrieval=reader.retrieval,
    )
    return save(path, saved, reader, session.versions).nbytes


def open_document(session: Session, path: Path) -> Document:
    """A document that `save_document` wrote."""
    from rapid_jax.engine.document import Document

    start = time.perf_counter()
    saved = open_saved(path, reader_of(session))
    templates = Templates(saved.template, saved.passages_template, ChatConfig(**saved.chat))
    document = Document.under(session, saved.text, TokenizedDocument(**saved.tokenized), templates)
    document.copied_before = saved.copied_before
    document.reading_seconds = saved.prefill_seconds
    document.holds(PrefilledContext([document.token_ids], saved.context, time.perf_counter() - start), saved.index)
    return document


def document_key(session: Session, document: Document) -> str:
    """See `Document.key`."""
    assert document.templates is not None  # no conversation
    return key_of(
        dict(
            version=session.versions["rapid_jax"],
            weights=session.fingerprint,
            tokenizer=session.target.tokenizer.fingerprint,
            kv=session.config.kv,
            templates=dataclasses.asdict(document.templates),
            text=document.text,
            tokens=document.token_ids,
        )
    )


def reader_of(session: Session) -> Reader:
    """Who reads the documents of a session."""

    def head(template: str, chat: Mapping[str, Any]) -> list[int]:
        return Prompt(session.target.tokenizer, template, ChatConfig(**chat)).head()

    config = session.config
    return Reader(
        target=session.target,
        weights=lambda: session.fingerprint,
        kv=config.kv,
        chunk=config.prefill_chunk,
        head=head,
        retrieval=json.loads(json.dumps(dataclasses.asdict(config.retrieval))),
    )
