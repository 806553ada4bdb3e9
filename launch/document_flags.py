"""The flags that name a document, and the document that they name: files, a saved one, or the default."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from launch import cli, distributed, store_flags
from rapid_jax.config import embedded, language_reference

if TYPE_CHECKING:
    from models.progress import ProgressCallback
    from rapid_jax.engine.document import Document
    from rapid_jax.engine.engine import Engine
    from rapid_jax.files.reading import FileText
    from rapid_jax.saving.store import DocumentStore

CONTEXT = flags.DEFINE_multi_string(
    "context_file",
    None,
    "The document: text, Markdown, HTML, PDF, DOCX or EPUB (extra documents), a folder of them, or - for standard "
    "input; given several times, all are one document.",
)
_ENCODING = flags.DEFINE_string("encoding", "", "Encoding of --context_file; found out if not given.")
SAVED = flags.DEFINE_string("document", None, "A saved document to open, in the place of --context_file.")
flags.adopt_module_key_flags(store_flags)


def files(default: bool) -> FileText | None:
    """The text of files, read before a model is loaded; None for a saved document, or where a model brings its own.

    Args:
      default: whether the document is the embedded one where no flag names another.

    Raises:
      UsageError: flags that do not go together.
      ValueError, OSError: a file that cannot be read.
    """
    from rapid_jax.files.reading import FileText

    if SAVED.value is not None and CONTEXT.value is not None:
        raise cli.UsageError("--document and --context_file both name a document: leave one of them out")
    if SAVED.value is not None or (CONTEXT.value is None and not default):
        return None
    return FileText.from_dict(distributed.from_main(_text))


def document(
    engine: Engine,
    found: FileText | None,
    progress: ProgressCallback,
    kept_in: DocumentStore | None,
    *,
    reserved: int = 0,
    prefill: bool = False,
) -> tuple[str, Document]:
    """The document, and its name where nobody gave it one ("" otherwise).

    Args:
      engine: that reads it.
      found: what `files` gave.
      progress, prefill: see Engine.read.
      kept_in: the store that is looked in first.
      reserved: tokens that are kept free behind it, for turns of a conversation.

    Raises:
      ValueError, OSError: as Engine.read and Engine.open.
    """
    if SAVED.value is not None:
        return SAVED.value, engine.open(SAVED.value)
    room = engine.document_room() - reserved
    if room < 1:
        raise ValueError(
            f"{reserved} tokens for a conversation leave no room for a document in {engine.target.config.max_position}"
        )
    if found is not None:
        name, text = "", found.text
    else:
        name, text = language_reference.NAME, distributed.from_main(lambda: _language_reference(engine, room))
    keep = (room - room // 2, room // 2) if reserved else None
    return name, engine.read(text, prefill=prefill, progress=progress, store=kept_in, keep=keep)


def keep(document: Document, kept_in: DocumentStore | None) -> None:
    """Keeps a document for the next call; says where that fails."""
    if kept_in is not None and SAVED.value is None:
        try:
            document.keep(kept_in)
        except OSError as error:
            logging.warning("the document is not kept for the next call: %s", error)


def _language_reference(engine: Engine, room: int) -> str:
    """As much of the default document of a model of the user's own as there is room for."""
    tokenizer = engine.target.tokenizer
    return language_reference.document(room, lambda text: len(tokenizer.encode(text)))


def _text() -> dict[str, Any]:
    """The fields of a FileText; JSON, so that one host can read it for all."""
    from rapid_jax.files.reading import FileText, Part, read_bytes, read_files

    paths = CONTEXT.value
    if paths is None:
        paths = [str(embedded.DOCUMENT)]
    if "-" in paths:
        if len(paths) > 1:
            raise cli.UsageError("--context_file=- is standard input, and the whole document: leave the others out")
        text, note = read_bytes(sys.stdin.buffer.read(), "standard input", _ENCODING.value)
        found = FileText(text, (Part("standard input", 0, len(text)),), (note,) if note else ())
    else:
        found = read_files([embedded.located(path) for path in paths], _ENCODING.value)
    for note in found.notes:
        logging.warning("%s", note)
    return found.to_dict()
