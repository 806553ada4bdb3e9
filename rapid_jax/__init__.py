"""Retrieval-augmented speculative decoding (RAPID, arXiv 2502.20330) in JAX.

from rapid_jax import Engine
engine = Engine.load()                      # or Engine.load("path/of/a/checkpoint")
document = engine.read(text)
answer = document.ask("What does Mirel Tavos play?", method="rapid")
"""

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Answer": "rapid_jax.engine.answer",
    "Document": "rapid_jax.engine.document",
    "Engine": "rapid_jax.engine.engine",
    "EngineConfig": "rapid_jax.config",
    "HierarchyConfig": "rapid_jax.config",
    "METHODS": "rapid_jax.config.methods",
    "RetrievalConfig": "rapid_jax.config",
    "SamplingConfig": "rapid_jax.config",
    "SpeculationConfig": "rapid_jax.config",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports public names when they are first used, so that `import rapid_jax` alone starts no JAX backend."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rapid_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
