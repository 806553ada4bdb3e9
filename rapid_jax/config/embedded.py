"""The embedded default: a small trained model, a document and questions about it.

The files lie in assets/ of the repository and are installed as rapid_jax/assets/. A name that begins with assets/, such
as assets/archivist-large, means the same file in both, from whatever directory a program is started.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rapid_jax.config.hierarchy import HierarchyConfig

_NAME = "assets"
_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds the files itself; in a checkout they lie beside it.
ASSETS = next((d for d in (_PACKAGE / "assets", _PACKAGE.parent / "assets") if d.is_dir()), _PACKAGE / "assets")
MODEL = ASSETS / "archivist"
DOCUMENT = ASSETS / "archive" / "document.txt"
QUESTIONS = ASSETS / "archive" / "questions.jsonl"
DATABASES = ASSETS / "databases"
DIALOGUES = ASSETS / "dialogues.jsonl"
_DEFAULT_QUESTION = "dossier-1367"  # of those that the embedded model answers right, one with a long answer


def model_path() -> str:
    """Directory of the embedded checkpoint.

    Raises:
      FileNotFoundError: the installation lacks it.
    """
    if not MODEL.is_dir():
        raise FileNotFoundError(
            f"the embedded model is not at {MODEL}: install rapid_jax again, or name a checkpoint as target"
        )
    return str(MODEL)


def located(path: str) -> str:
    """Where a path lies: what exists locally wins, then an embedded file of that name (assets/...).

    Args:
      path: a file or a directory, absolute or seen from the current directory, or a name that is no path at all.

    Returns:
      The path as it is, or that of the embedded file.
    """
    given = Path(path)
    if given.parts[:1] != (_NAME,) or ".." in given.parts or given.exists():
        return path
    installed = ASSETS.joinpath(*given.parts[1:])
    return str(installed) if installed.exists() else path


def checkpoint(name: str) -> str:
    """The directory or hub name of a checkpoint.

    Args:
      name: a directory, a hub name or an embedded checkpoint (assets/archivist-large); "" is the embedded model.

    Raises:
      FileNotFoundError: the installation lacks the embedded model, or holds no checkpoint of a name assets/....
    """
    if not name:
        return model_path()
    path = located(name)
    if path == name and Path(name).parts[:1] == (_NAME,) and not Path(name).exists():
        known = ", ".join(sorted(f"{_NAME}/{config.parent.name}" for config in ASSETS.glob("*/config.json")))
        raise FileNotFoundError(f"{name}: no such directory; the embedded checkpoints are {known}")
    return path


def is_own(target: str) -> bool:
    """Whether a target is one of the embedded models."""
    return not target or Path(target).parts[:1] == (_NAME,) or ASSETS in Path(target).resolve().parents


def with_databases(config: HierarchyConfig) -> HierarchyConfig:
    """The configuration with the embedded model's own databases where it names none."""
    own: dict[str, Any] = {
        name: str(DATABASES / folder)
        for name, folder in (("model_database", "model"), ("statistics_database", "corpus"))
        if not getattr(config, name) and (DATABASES / folder).is_dir()
    }
    return dataclasses.replace(config, **own)


def default_question() -> str:
    """The question about the embedded document that is asked by default."""
    return next(q["question"] for q in _questions() if q["id"] == _DEFAULT_QUESTION)


def reference_answer(question: str) -> str | None:
    """The reference answer to a question about the embedded document; None where the question is not one of its own."""
    return next((q["answer"] for q in _questions() if q["question"] == question and not q["choices"]), None)


def _questions() -> list[dict[str, Any]]:
    with QUESTIONS.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
