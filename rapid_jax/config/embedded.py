"""The embedded default: a small trained model, a document and questions about it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rapid_jax.config.hierarchy import HierarchyConfig

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds the files itself; in a checkout they lie beside it.
ASSETS = next((d for d in (_PACKAGE / "assets", _PACKAGE.parent / "assets") if d.is_dir()), _PACKAGE / "assets")
MODEL = ASSETS / "archivist"
DOCUMENT = ASSETS / "archive" / "document.txt"
QUESTIONS = ASSETS / "archive" / "questions.jsonl"
DATABASES = ASSETS / "databases"
DIALOGUES = ASSETS / "dialogues.jsonl"


def model_path() -> str:
    """Directory of the embedded checkpoint.

    Raises:
      FileNotFoundError: rapid_jax does not lie in a checkout of its repository.
    """
    if not MODEL.is_dir():
        raise FileNotFoundError(
            f"the embedded model is not at {MODEL}: run in a checkout, or name a checkpoint as target"
        )
    return str(MODEL)


def with_databases(config: HierarchyConfig) -> HierarchyConfig:
    """The configuration with the embedded model's own databases where it names none."""
    own: dict[str, Any] = {
        name: str(DATABASES / folder)
        for name, folder in (("model_database", "model"), ("statistics_database", "corpus"))
        if not getattr(config, name) and (DATABASES / folder).is_dir()
    }
    return dataclasses.replace(config, **own)


def default_question() -> str:
    """The first question about the embedded document that asks for everything said about somebody."""
    with QUESTIONS.open(encoding="utf-8") as lines:
        return next(q["question"] for q in map(json.loads, lines) if q["task"] == "dossier")
