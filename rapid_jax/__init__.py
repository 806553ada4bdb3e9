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
        ChatConfig,
        EngineConfig,
        HierarchyConfig,
        RetrievalConfig,
        SamplingConfig,
        SpeculationConfig,
    )
    from rapid_jax.config.evaluation import EvaluationConfig
    from rapid_jax.engine.answer import Answer
    from rapid_jax.engine.chat import Chat
    from rapid_jax.engine.document import Document
    from rapid_jax.engine.engine import Engine
    from rapid_jax.engine.stream import Stream
    from rapid_jax.retrieval import Passage
    from rapid_jax.tracing import Trace

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Answer",
    "Chat",
    "ChatConfig",
    "Document",
    "Engine",
    "EngineConfig",
    "EvaluationConfig",
    "HierarchyConfig",
    "Passage",
    "RetrievalConfig",
    "SamplingConfig",
    "SpeculationConfig",
    "Stream",
    "Trace",
]

_HOMES = {
    "METHODS": "config",
    "Answer": "engine.answer",
    "Chat": "engine.chat",
    "ChatConfig": "config",
    "Document": "engine.document",
    "Engine": "engine.engine",
    "EngineConfig": "config",
    "EvaluationConfig": "config.evaluation",
    "HierarchyConfig": "config",
    "Passage": "retrieval",
    "RetrievalConfig": "config",
    "SamplingConfig": "config",
    "SpeculationConfig": "config",
    "Stream": "engine.stream",
    "Trace": "tracing",
}

if not TYPE_CHECKING:  # a type checker would take every name for one that may be there

    def __getattr__(name: str) -> Any:
        """Imports public names when they are first used, so that `import rapid_jax` alone starts no JAX backend."""
        if name not in _HOMES:
            raise AttributeError(f"module 'rapid_jax' has no attribute {name!r}")
        return getattr(importlib.import_module(f"rapid_jax.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
