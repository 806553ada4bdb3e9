"""Which architectures are known: config.json to ModelConfig and back, and published sizes by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from models import llama, qwen
from models.config import ModelConfig

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], ModelConfig]] = {
    llama.ARCHITECTURE: llama.from_hf,
    qwen.QWEN2: functools.partial(qwen.from_hf, architecture=qwen.QWEN2),
    qwen.QWEN3: functools.partial(qwen.from_hf, architecture=qwen.QWEN3),
}
_MODEL_TYPES = {"llama": llama.ARCHITECTURE, "qwen2": qwen.QWEN2, "qwen3": qwen.QWEN3}
PRESETS: dict[str, ModelConfig] = {**llama.PRESETS, **qwen.PRESETS}


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a Hugging Face config.json, by its `architectures` (or its `model_type`, where that is absent).

    Raises:
      ValueError: an unknown architecture, or a field that is out of range or not supported.
    """
    named = config.get("architectures") or [_MODEL_TYPES.get(config.get("model_type", ""), config.get("model_type"))]
    architecture = named[0] if isinstance(named, list) else named
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"config.json: architecture {architecture!r} is not supported; known: {known}")
    return ARCHITECTURES[architecture](config)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `config_from_hf` and transformers read back as this model.

    Raises:
      ValueError: the family has no way to say this combination of settings.
    """
    written = (llama if config.family == "llama" else qwen).to_hf(config)
    if config_from_hf(written) != config:
        raise ValueError(f"a config.json of the {config.family} family cannot express {config}")
    return written


def preset(name: str) -> ModelConfig:
    """The published numbers of a model, for runs with random weights.

    Raises:
      ValueError: an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; known: {', '.join(PRESETS)}")
    return PRESETS[name]
