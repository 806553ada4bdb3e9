"""Reading and writing Hugging Face's config.json: checked fields, and rope settings in both spellings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from models.config import ModelConfig, RopeConfig

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def positive_int(config: Mapping[str, Any], name: str) -> int:
    """The field as an int of at least 1; raises ValueError otherwise."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json: {name} must be a positive integer, got {value!r}")
    return value


def positive_number(config: Mapping[str, Any], name: str, where: str = "config.json") -> float:
    """The field as a finite float above 0; raises ValueError otherwise."""
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{where}: {name} must be a positive number, got {value!r}")
    return float(value)


def flag(config: Mapping[str, Any], name: str) -> bool:
    """The field as a bool; raises ValueError otherwise."""
    value = config.get(name)
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {name} must be true or false, got {value!r}")
    return value


def token_ids(value: Any, name: str) -> tuple[int, ...]:
    """None, an id or a list of ids, as a tuple; raises ValueError for anything else."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ValueError(f"{name} must be an id, a list of ids or null, got {value!r}")
    return tuple(ids)


def decoder_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ModelConfig fields that all families read alike, from a config.json completed with its class's defaults.

    Raises:
      ValueError: a field out of range, or one that asks for a computation that this decoder does not do.
    """
    if config.get("hidden_act") != "silu":
        raise ValueError(f"config.json: hidden_act {config.get('hidden_act')!r} is not supported; known: silu")
    if config.get("quantization_config"):
        raise ValueError("config.json: quantization_config is set; give a checkpoint with plain floating-point weights")
    width, num_heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    kv_heads_given = config.get("num_key_value_heads") is not None
    num_kv_heads = positive_int(config, "num_key_value_heads") if kv_heads_given else num_heads
    if num_heads % num_kv_heads:
        raise ValueError(
            f"config.json: num_key_value_heads {num_kv_heads} does not divide num_attention_heads {num_heads}"
        )
    head_dim = width // num_heads if config.get("head_dim") is None else positive_int(config, "head_dim")
    if head_dim == 0 or head_dim % 2:
        raise ValueError(f"config.json: head_dim must be even for rotary positions, got {head_dim}")
    bos = token_ids(config.get("bos_token_id"), "config.json: bos_token_id")
    return dict(
        vocab_size=positive_int(config, "vocab_size"),
        width=width,
        ffn_width=positive_int(config, "intermediate_size"),
        num_layers=positive_int(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=positive_int(config, "max_position_embeddings"),
        rope=rope_from_hf(config),
        rms_norm_eps=positive_number(config, "rms_norm_eps"),
        tie_embeddings=flag(config, "tie_word_embeddings"),
        bos_id=bos[0] if bos else None,
        eos_ids=token_ids(config.get("eos_token_id"), "config.json: eos_token_id"),
    )


def refuse_sliding_window(config: Mapping[str, Any]) -> None:
    """Raises ValueError where a layer would attend to a window; inactive window settings pass."""
    layer_types = config.get("layer_types")
    windowed = [kind for kind in layer_types or () if kind != "full_attention"]
    if windowed:
        raise ValueError(f"config.json: layer_types contains {windowed[0]}; every layer must be full_attention")
    if config.get("use_sliding_window") and layer_types is None:
        raise ValueError("config.json: use_sliding_window is true; sliding-window attention is not supported")


def rope_from_hf(config: Mapping[str, Any]) -> RopeConfig:
    """Rope settings from rope_theta and rope_scaling, or from rope_parameters; max_position_embeddings is read too.

    Raises:
      ValueError: an unknown rope type, or a setting that is missing or out of range.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ValueError(f"config.json: rope settings must be one flat table for all layers, got {given!r}")
    settings = {"rope_theta": config.get("rope_theta", 10_000.0), **given}
    for table in (config, settings):
        if table.get("partial_rotary_factor") not in (None, 1):
            raise ValueError(
                f"config.json: partial_rotary_factor {table['partial_rotary_factor']!r} is not supported; known: 1"
            )
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise ValueError(f"config.json: rope type {kind!r} is not supported; known: {', '.join(ROPE_TYPES)}")

    def number(name: str) -> float:
        return positive_number(settings, name, f"config.json: {kind} rope")

    theta = number("rope_theta")
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(kind, theta, number("factor"))
    original = config.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings")
    settings["original_max_position_embeddings"] = original or config.get("max_position_embeddings")
    original = int(number("original_max_position_embeddings"))
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if high <= low:
            raise ValueError(f"config.json: llama3 rope: high_freq_factor {high} must be above low_freq_factor {low}")
        return RopeConfig(kind, theta, number("factor"), original, low, high)
    if "factor" in settings and settings["factor"] is None:
        settings["factor"] = positive_int(config, "max_position_embeddings") / original
    optional = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": _yarn_attention_factor(settings)}
    settings.update({name: settings.get(name) or value for name, value in optional.items()})
    return RopeConfig(
        kind,
        theta,
        number("factor"),
        original,
        beta_fast=number("beta_fast"),
        beta_slow=number("beta_slow"),
        attention_factor=number("attention_factor"),
        truncate=bool(settings.get("truncate", True)),
    )


def _yarn_attention_factor(settings: Mapping[str, Any]) -> float:
    """The scale of cos and sin where config.json does not name it (YaRN, arXiv 2309.00071, Eq. 22)."""
    factor = positive_number(settings, "factor", "config.json: yarn rope")

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, mscale_all_dim = settings.get("mscale"), settings.get("mscale_all_dim")
    return scale(mscale) / scale(mscale_all_dim) if mscale and mscale_all_dim else scale(1.0)


def decoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json fields that all families write alike, in the spelling of the published checkpoints."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_to_hf(config.rope),
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids) or None,
    }


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    settings: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind != "linear":
        settings["original_max_position_embeddings"] = rope.original_max_position
    if rope.kind == "llama3":
        settings |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        names = ("beta_fast", "beta_slow", "attention_factor", "truncate")
        settings |= {name: getattr(rope, name) for name in names}
    return settings
