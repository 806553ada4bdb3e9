"""What a saved document is and which engine may open it. It is checked before anything else is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.json_file import read_json
from rapid_jax.saving.layout import Layout

FILE, FOLDER = "manifest.json", "data-"  # FOLDER begins the name of the folder of its files
KIND, VERSION = "rapid_jax document", 1
SEAL = "sha256"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A saved document.

    Attributes:
      kind, version: KIND and VERSION.
      folder: that its files lie in, beside the manifest.
      weights: fingerprint of the target's weights (`checksums.weights_fingerprint`).
      target: its checkpoint's name, for messages.
      tokenizer: fingerprint of the tokenizer.
      kv: format of keys and values (models.formats).
      dtype: of the model.
      layers: of the model.
      layout: fields of a Layout.
      arrays: by field of a ContextCache, the dtype and the checksums of each layer.
      template, passages_template: user messages around the document, and around its passages.
      chat: fields of a ChatConfig, its date included.
      head: tokens before the document; a chat template that has changed gives others.
      retrieval: the settings that its index was made with; empty where it has none.
      files: SHA-256 of the other files, by name.
      prefill_seconds: what reading it took.
      nbytes: of all files.
      versions: of the packages that matter.
    """

    kind: str
    version: int
    folder: str
    weights: str
    target: str
    tokenizer: str
    kv: str
    dtype: str
    layers: int
    layout: Mapping[str, int]
    arrays: Mapping[str, Mapping[str, Any]]
    template: str
    passages_template: str
    chat: Mapping[str, Any]
    head: list[int]
    retrieval: Mapping[str, Any]
    files: Mapping[str, str]
    prefill_seconds: float
    nbytes: int
    versions: Mapping[str, str]

    @property
    def slots(self) -> Layout:
        """How its tokens lie."""
        return Layout(**self.layout)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a saved document.

    Raises:
      FileNotFoundError: no such directory, or none of a saved document.
      ValueError: a file, or a manifest that is none, or of another version.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name the directory of a saved document")
    if not (path / FILE).is_file():
        raise FileNotFoundError(f"there is no saved document at {path}: make one with Document.save or --save_document")
    found = read_json(path / FILE)
    if found.get("kind") != KIND:
        raise ValueError(f"{path / FILE} is not the manifest of a saved document; name a directory that was saved")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path} was saved in version {str(found.get('version'))[:20]} of the format, this is {VERSION}: "
            "save it again"
        )
    seal = found.pop(SEAL, None)
    kinds = {"str": str, "int": int, "float": float, "list[int]": list}
    fields = dataclasses.fields(Manifest)
    sound = set(found) == {field.name for field in fields} and all(
        type(found[field.name]) is kinds.get(str(field.type), dict) for field in fields
    )
    if (
        not sound
        or seal != _seal(found)
        or not found["folder"].startswith(FOLDER)
        or "/" in found["folder"]
        or set(found["layout"]) != {field.name for field in dataclasses.fields(Layout)}
    ):
        raise ValueError(f"{path / FILE} is damaged; save the document again")
    return Manifest(**found)


def sealed(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON, with a checksum of itself: a byte of it that changes is not taken for a damaged file."""
    fields = dataclasses.asdict(manifest)
    return {**fields, SEAL: _seal(fields)}


def _seal(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
