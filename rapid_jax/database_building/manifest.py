"""The end of a build: the manifest that marks a database as finished, and whether the same one is there already."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.tokenizer import Tokenizer
from rapid_jax.config.mapping import flatten
from rapid_jax.databases.manifest import FILE, Manifest, read_manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Marks a database as finished, once everything else of it is on disk."""
    draft = directory / f"{FILE}.part"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(manifest), file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / FILE)


def finished(directory: Path, kind: str, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Manifest | None:
    """The manifest of a database that was finished with the same settings; None where none was finished.

    Raises:
      ValueError: the directory holds a finished database of other settings, which must not be overwritten.
    """
    if not (directory / FILE).exists():
        return None
    manifest = read_manifest(directory, kind)
    old = flatten({"tokenizer": manifest.tokenizer, **manifest.settings})
    new = flatten({"tokenizer": tokenizer.fingerprint, **json.loads(json.dumps(settings))})
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{directory} holds a finished database with {name} = {old.get(name)!r}, this one would have "
                f"{new.get(name)!r}: name another directory"
            )
    return manifest
