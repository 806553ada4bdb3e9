"""The embedded default: a small trained model, a document and questions about it."""

from __future__ import annotations

import json
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MODEL = ASSETS / "archivist"
DOCUMENT = ASSETS / "archive" / "document.txt"
QUESTIONS = ASSETS / "archive" / "questions.jsonl"
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


def default_question() -> str:
    """The first question about the embedded document that asks for everything said about somebody."""
    with QUESTIONS.open(encoding="utf-8") as lines:
        return next(q["question"] for q in map(json.loads, lines) if q["task"] == "dossier")
