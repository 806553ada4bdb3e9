"""The end of a build: the manifest that marks a database as finished, and whether the same one is there already."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.tokenizer import Tokenizer
from rapid_jax.config.mapping import flatten
from rapid_jax.databases.manifest import FILE, Manifest, read_manifest
from rapid_jax.evaluation.writing import replace_text


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Marks a database as finished, once everything else of it is on disk."""
    replace_text(directory / FILE, json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False))


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
