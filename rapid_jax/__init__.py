"""Retrieval-augmented speculative decoding (RAPID, arXiv 2502.20330) in JAX.

from rapid_jax import Engine
engine = Engine.load()                      # or Engine.load("path/of/a/checkpoint")
document = engine.read(text)
answer = document.ask("What does Mirel Tavos play?", method="rapid")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapid_jax.config import (
        METHODS,
        EngineConfig,
        HierarchyConfig,
        RetrievalConfig,
        SamplingConfig,
        SpeculationConfig,
    )
    from rapid_jax.engine.answer import Answer
    from rapid_jax.engine.document import Document, Stream
    from rapid_jax.engine.engine import Engine
    from rapid_jax.retrieval import Passage

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Answer",
    "Document",
    "Engine",
    "EngineConfig",
    "HierarchyConfig",
    "Passage",
    "RetrievalConfig",
    "SamplingConfig",
    "SpeculationConfig",
    "Stream",
]

_HOMES = {
    "Answer": "rapid_jax.engine.answer",
    "Document": "rapid_jax.engine.document",
    "Engine": "rapid_jax.engine.engine",
    "Passage": "rapid_jax.retrieval",
    "Stream": "rapid_jax.engine.document",
}


def __getattr__(name: str) -> Any:
    """Imports public names when they are first used, so that `import rapid_jax` alone starts no JAX backend."""
    if name not in __all__:
        raise AttributeError(f"module 'rapid_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "rapid_jax.config")), name)
