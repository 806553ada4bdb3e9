"""What a database holds and whose token ids they are. It is written last: without it a database is not finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.tokenizer import Tokenizer

KINDS = ("model", "corpus")
FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A finished database.

    Attributes:
      kind: "model", n-grams of text that a model generated, or "corpus", suffix arrays over text.
      tokenizer: fingerprint of the tokenizer (see models.tokenizer).
      tokenizer_name: the checkpoint that it came with, for messages.
      vocab_size: tokens of the tokenizer.
      documents, tokens: that were counted or sorted; sentinels between documents are no tokens.
      order: tokens of an n-gram, its key included; 0 for a corpus, whose continuations have any length.
      ngrams: n-grams in the table; 0 for a corpus.
      shards: suffix arrays; 0 for a model.
      generated_by: checkpoint of the model that wrote the text; empty for a corpus.
      settings: what it was made from and how, JSON; a database of other settings is never overwritten.
      versions: of the packages that matter.
    """

    kind: str
    tokenizer: str
    tokenizer_name: str
    vocab_size: int
    documents: int
    tokens: int
    order: int
    ngrams: int
    shards: int
    generated_by: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def read_manifest(directory: Path, kind: str) -> Manifest:
    """What a finished database holds.

    Args:
      kind: that is looked for, in KINDS.

    Raises:
      FileNotFoundError: no such directory, or no finished database in it.
      ValueError: a file, a manifest that is not one of a database, or a database of the other kind.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; name the directory of a database")
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no database at {directory}: {_how_to_make(kind)}")
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no finished database (no {FILE}): {_how_to_make(kind)}")
    manifest: Manifest | None = None
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        pass  # answered below
    if manifest is None or not _is_sound(manifest):
        raise ValueError(f"{path} is not the manifest of a database; name a directory that launch.build_database made")
    if manifest.kind != kind:
        raise ValueError(f"{directory} is a database of kind {manifest.kind}, not {kind}: {_how_to_make(kind)}")
    return manifest


def _is_sound(manifest: Manifest) -> bool:
    """Whether the fields that were read have the types of a manifest's, and a corpus its shards."""
    kinds = {"str": str, "int": int}
    fields = dataclasses.fields(manifest)
    typed = all(type(getattr(manifest, field.name)) is kinds.get(str(field.type), dict) for field in fields)
    return typed and manifest.kind in KINDS and (manifest.shards > 0) == (manifest.kind == "corpus")


def _how_to_make(kind: str) -> str:
    return f"name another, or make one with python -m launch.build_database --kind={kind}"


def check_manifest(directory: Path, kind: str, tokenizer: Tokenizer) -> Manifest:
    """The manifest of a database that is to be used with a tokenizer.

    Raises:
      FileNotFoundError, ValueError: as `read_manifest`.
      ValueError: its token ids belong to another tokenizer.
    """
    manifest = read_manifest(directory, kind)
    if manifest.tokenizer != tokenizer.fingerprint:
        raise ValueError(
            f"{directory} holds token ids of the tokenizer of {manifest.tokenizer_name} ({manifest.vocab_size:,} "
            f"tokens, {manifest.tokenizer[:8]}), not of {tokenizer.hf.name_or_path} ({tokenizer.vocab_size:,} tokens, "
            f"{tokenizer.fingerprint[:8]}): {_how_to_make(kind)} --target=..."
        )
    return manifest
