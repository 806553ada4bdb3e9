"""Which architectures are known: config.json to ModelConfig and back, and published sizes by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from models import llama, qwen
from models.config import ModelConfig
from models.fields import shown

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], ModelConfig]] = {
    llama.ARCHITECTURE: llama.from_hf,
    qwen.QWEN2: functools.partial(qwen.from_hf, architecture=qwen.QWEN2),
    qwen.QWEN3: functools.partial(qwen.from_hf, architecture=qwen.QWEN3),
}
_MODEL_TYPES = {"llama": llama.ARCHITECTURE, "qwen2": qwen.QWEN2, "qwen3": qwen.QWEN3}
PRESETS: dict[str, ModelConfig] = {**llama.PRESETS, **qwen.PRESETS}


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a Hugging Face config.json, by its `architectures` (or its `model_type`, where that is absent).

    An `auto_map`, which names Python code that lies beside the weights, is never followed: a known architecture is
    computed by this package, and an unknown one is refused.

    Raises:
      ValueError: an unknown architecture, or a field that is out of range or not supported; one line.
    """
    architecture = _architecture(config)
    try:
        return ARCHITECTURES[architecture](config)
    except ValueError as error:
        message = str(error)
    raise ValueError(message if message.startswith("config.json") else f"config.json: {message}")


def _architecture(config: Mapping[str, Any]) -> str:
    """The name of a known architecture.

    Raises:
      ValueError: it is unknown, badly written or at odds with model_type.
    """
    named, model_type = config.get("architectures"), config.get("model_type")
    names = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"config.json: architectures must be a list of names, got {shown(named)}")
    if not isinstance(model_type, str | None):
        raise ValueError(f"config.json: model_type must be a name, got {shown(model_type)}")
    expected = _MODEL_TYPES.get(model_type or "")
    architecture = names[0] if names else expected or model_type
    if architecture is None or architecture not in ARCHITECTURES:
        own_code = ", and the code that its auto_map names is never run" if config.get("auto_map") else ""
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"config.json: architecture {shown(architecture)} is not supported{own_code}; known: {known}")
    if expected not in (None, architecture):
        raise ValueError(f"config.json: model_type {model_type!r} contradicts architecture {architecture!r}")
    return architecture


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
