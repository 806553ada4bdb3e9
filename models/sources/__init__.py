"""Where weights come from: `open_source(path)` gives the WeightSource of a checkpoint, whatever its files look like.

A kind of checkpoint is a module of this package (base.py says what it offers) and a place in _KINDS. Importing this
package does not start JAX.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from models import hub
from models.sources.base import WeightSource

_KINDS = ("gguf", "orbax", "huggingface")  # modules, asked in this order: the last one takes all that no other does


def open_source(path: str | Path) -> WeightSource:
    """The checkpoint at a path; nothing of it is read yet.

    Args:
      path: a GGUF file, a directory with Hugging Face's files, one that `models.checkpoint.save_orbax` wrote, or a name
        of an installed package or on the Hugging Face hub (`models.hub.resolve`).

    Raises:
      FileNotFoundError: neither a path nor on the hub, or the hub is out of reach, or no such package.
      ValueError: a file of no known kind, or a package without weights.
    """
    found = hub.resolve(path)
    claims = (importlib.import_module(f"models.sources.{kind}").claim(found) for kind in _KINDS)
    return next(source for source in claims if source is not None)
