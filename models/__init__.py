"""Decoder language models as pure functions over explicit caches: LLaMA and Qwen checkpoints in JAX.

model = models.load("Qwen/Qwen2.5-7B-Instruct")
model.logits([model.tokenizer.encode("The lamp is")])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.config import ModelConfig, RopeConfig
    from models.decoder import Decoder
    from models.language_model import LanguageModel, load
    from models.params import init_params
    from models.registry import preset
    from models.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Decoder",
    "LanguageModel",
    "ModelConfig",
    "RopeConfig",
    "Tokenizer",
    "init_params",
    "load",
    "load_tokenizer",
    "preset",
]

_HOMES = {
    "Decoder": "decoder",
    "LanguageModel": "language_model",
    "ModelConfig": "config",
    "RopeConfig": "config",
    "Tokenizer": "tokenizer",
    "init_params": "params",
    "load": "language_model",
    "load_tokenizer": "tokenizer",
    "preset": "registry",
}


if not TYPE_CHECKING:  # a type checker would take every name for one that may be there

    def __getattr__(name: str) -> Any:
        """Imports a public name at first use, so that reading a configuration does not start JAX or transformers."""
        if name not in _HOMES:
            raise AttributeError(f"module 'models' has no attribute {name!r}")
        return getattr(importlib.import_module(f"models.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
