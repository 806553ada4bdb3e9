"""Reading and writing Hugging Face's config.json: checked fields, and rope settings in both spellings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from models.config import (
    EPS_RANGE,
    MOST_ID,
    MOST_POSITIONS,
    ROPE_KINDS,
    ROPE_RANGES,
    SIZE_LIMITS,
    ModelConfig,
    RopeConfig,
)
from models.fields import boolean, integer, number, shown

_MOST_IDS = 1024
_ORIGINAL = "original_max_position_embeddings"

# Hugging Face's name of a size -> ours.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "ffn_width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_position",
}


def size(config: Mapping[str, Any], name: str, where: str = "config.json") -> int:
    """The field of a config.json that holds a size, from 1 to the limit of its kind; raises ValueError otherwise."""
    return integer(config.get(name), f"{where}: {name}", SIZE_LIMITS[_SIZES[name]])


def flag(config: Mapping[str, Any], name: str) -> bool:
    """The field as a bool; raises ValueError otherwise."""
    return boolean(config.get(name), f"config.json: {name}")


def token_ids(value: Any, name: str) -> tuple[int, ...]:
    """None, an id or a list of ids, as a tuple; raises ValueError for anything else."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ValueError(f"{name} must be an id, a list of ids or null, got {shown(value)}")
    if len(ids) > _MOST_IDS:
        raise ValueError(f"{name} must hold at most {_MOST_IDS} ids, got {len(ids)}")
    return tuple(integer(i, name, MOST_ID, least=0) for i in ids)


def decoder_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ModelConfig fields that all families read alike, from a config.json completed with its class's defaults.

    Raises:
      ValueError: a field out of range, or one that asks for a computation that this decoder does not do.
    """
    if config.get("hidden_act") != "silu":
        raise ValueError(f"config.json: hidden_act {shown(config.get('hidden_act'))} is not supported; known: silu")
    if config.get("quantization_config"):
        raise ValueError("config.json: quantization_config is set; give a checkpoint with plain floating-point weights")
    _refuse_sliding_window(config)
    absent = [name for name in ("num_key_value_heads", "head_dim") if config.get(name) is None]
    sizes = {ours: size(config, name) for name, ours in _SIZES.items() if name not in absent}
    width, num_heads = sizes["width"], sizes["num_heads"]
    num_kv_heads = sizes.setdefault("num_kv_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(
            f"config.json: num_key_value_heads {num_kv_heads} does not divide num_attention_heads {num_heads}"
        )
    if "head_dim" not in sizes and width % num_heads:
        raise ValueError(
            f"config.json: num_attention_heads {num_heads} does not divide hidden_size {width}; give head_dim"
        )
    head_dim = sizes.setdefault("head_dim", width // num_heads)
    if head_dim % 2:
        raise ValueError(f"config.json: head_dim must be even for rotary positions, got {head_dim}")
    bos = token_ids(config.get("bos_token_id"), "config.json: bos_token_id")
    return {
        **sizes,
        "max_position": context_length(config),
        "rope": rope_from_hf(config),
        "rms_norm_eps": number(config.get("rms_norm_eps"), "config.json: rms_norm_eps", *EPS_RANGE),
        "tie_embeddings": flag(config, "tie_word_embeddings"),
        "bos_id": bos[0] if bos else None,
        "eos_ids": token_ids(config.get("eos_token_id"), "config.json: eos_token_id"),
    }


def _refuse_sliding_window(config: Mapping[str, Any]) -> None:
    """Raises ValueError where a layer would attend to a window; inactive window settings pass."""
    layer_types = config.get("layer_types")
    if not isinstance(layer_types, list | None) or not all(isinstance(kind, str) for kind in layer_types or ()):
        raise ValueError(f"config.json: layer_types must be a list of names or null, got {shown(layer_types)}")
    windowed = [kind for kind in layer_types or () if kind != "full_attention"]
    if windowed:
        name = shown(windowed[0]).strip("'")
        raise ValueError(f"config.json: layer_types contains {name}; every layer must be full_attention")
    if config.get("use_sliding_window") is None or not flag(config, "use_sliding_window"):
        return
    if layer_types is None:
        raise ValueError("config.json: use_sliding_window is true; sliding-window attention is not supported")


def rope_from_hf(config: Mapping[str, Any]) -> RopeConfig:
    """Rope settings from rope_theta, rope_scaling and rope_parameters; max_position_embeddings is read too.

    Where both tables are there, rope_parameters (written by transformers 5) gives theta and rope_scaling (added by a
    user) the stretch.

    Raises:
      ValueError: an unknown rope type, a setting that is missing or out of range, or two that contradict each other.
    """
    settings = _rope_settings(config)
    kind = settings["rope_type"]

    def value(name: str) -> float:
        least, most = ROPE_RANGES[name.removeprefix("rope_")]
        return number(settings.get(name), f"config.json: {kind} rope: {name}", least, most)

    theta = value("rope_theta")
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(kind, theta, value("factor"))
    original = integer(settings[_ORIGINAL], f"config.json: {kind} rope: {_ORIGINAL}", MOST_POSITIONS)
    if kind == "llama3":
        return RopeConfig(kind, theta, value("factor"), original, value("low_freq_factor"), value("high_freq_factor"))
    if "factor" in settings and settings["factor"] is None:
        settings["factor"] = size(config, "max_position_embeddings") / original
    optional = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": _yarn_attention_factor(value, settings)}
    settings.update({name: default for name, default in optional.items() if settings.get(name) is None})
    return RopeConfig(
        kind,
        theta,
        value("factor"),
        original,
        beta_fast=value("beta_fast"),
        beta_slow=value("beta_slow"),
        attention_factor=value("attention_factor"),
        truncate=boolean(settings.get("truncate", True), "config.json: yarn rope: truncate"),
    )


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens that a checkpoint allows: max_position_embeddings, or what its rope settings stretch that to.

    - "default" and "llama3": max_position_embeddings. LLaMA-3.1 declares 131,072, which is stretched already; its
      original_max_position_embeddings of 8,192 only places the band of frequencies.
    - "yarn" and "linear" with original_max_position_embeddings: the original length times factor, or
      max_position_embeddings where it is larger. Qwen2.5's 32,768 x 4 and Qwen3's 40,960 with an original 32,768 x 4
      both give 131,072, and a checkpoint that declares 131,072 beside them keeps it.
    - "yarn" and "linear" without it: max_position_embeddings times factor. transformers takes the declared length for
      the original one, and vLLM multiplies it as well. Where max_position_embeddings is stretched already, config.json
      must say so by giving original_max_position_embeddings.

    Raises:
      ValueError: as `rope_from_hf`, or more than 2**24 tokens, whose positions float32 cannot tell apart.
    """
    declared, rope, settings = size(config, "max_position_embeddings"), rope_from_hf(config), _rope_settings(config)
    if rope.kind in ("default", "llama3"):
        return declared
    original = integer(settings[_ORIGINAL], f"config.json: {rope.kind} rope: {_ORIGINAL}", MOST_POSITIONS)
    length = max(declared, _stretched(original, rope.factor))
    if length > MOST_POSITIONS:
        raise ValueError(
            f"config.json: {rope.kind} rope: {original} positions times factor {rope.factor:g} are {length}; "
            f"at most {MOST_POSITIONS} are supported"
        )
    return length


def _stretched(original: int, factor: float) -> int:
    return math.floor(original * factor + 1e-6)  # 100 * 1.15 is 114.99999999999999


def _rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """One table out of rope_parameters, rope_scaling and the top level, with rope_type, theta and the original length.

    Raises:
      ValueError: a table that is no flat object, or two tables that contradict each other.
    """
    merged: dict[str, Any] = {}
    for name in ("rope_parameters", "rope_scaling"):
        for key, value in _rope_table(config, name).items():
            if value is None and key in merged:
                continue
            unset = merged.get(key) is None or (key == "rope_type" and merged[key] == "default")
            if not unset and merged[key] != value:
                raise ValueError(
                    f"config.json: rope_parameters and rope_scaling contradict each other: "
                    f"{shown(key)} is {shown(merged[key])} and {shown(value)}; give one of them"
                )
            merged[key] = value
    kind = merged.setdefault("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise ValueError(f"config.json: rope type {shown(kind)} is not supported; known: {', '.join(ROPE_KINDS)}")
    if kind == "default" and merged.get("factor") not in (None, 1):
        raise ValueError(
            f"config.json: rope settings give factor {shown(merged['factor'])} without a type that stretches; "
            f"rope_type must be one of {', '.join(ROPE_KINDS[1:])}"
        )
    if merged.get("rope_theta") is None:
        merged["rope_theta"] = config.get("rope_theta", 10_000.0)
    if config.get(_ORIGINAL) is not None:
        merged[_ORIGINAL] = config[_ORIGINAL]
    elif merged.get(_ORIGINAL) is None:
        merged[_ORIGINAL] = config.get("max_position_embeddings")
    return merged


def _rope_table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The rope settings under one name, "type" spelled as "rope_type"; empty where there are none."""
    table = config.get(name)
    if table is None:
        table = {}
    if not isinstance(table, Mapping) or any(isinstance(value, Mapping) for value in table.values()):
        raise ValueError(f"config.json: rope settings must be one flat table for all layers, got {shown(table)}")
    for holder in (config, table):
        partial = holder.get("partial_rotary_factor")
        if partial is not None and (isinstance(partial, bool) or partial != 1):
            raise ValueError(f"config.json: partial_rotary_factor {shown(partial)} is not supported; known: 1")
    settings = {key: value for key, value in table.items() if key not in ("type", "rope_type")}
    kinds = [table[key] for key in ("rope_type", "type") if table.get(key) is not None]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        first, second = shown(kinds[0]), shown(kinds[1])
        raise ValueError(f"config.json: {name} names two rope types, {first} and {second}; give one of them")
    return {"rope_type": kinds[0], **settings} if kinds else settings


def _yarn_attention_factor(value: Callable[[str], float], settings: Mapping[str, Any]) -> float:
    """The scale of cos and sin where config.json does not name it (YaRN, arXiv 2309.00071, Eq. 22)."""
    factor = value("factor")

    def scale(name: str) -> float:
        weight = number(settings[name], f"config.json: yarn rope: {name}", 1e-3, 1e3) if name else 1.0
        return 0.1 * weight * math.log(factor) + 1.0

    given = settings.get("mscale") and settings.get("mscale_all_dim")
    return scale("mscale") / scale("mscale_all_dim") if given else scale("")


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
        "rope_theta": config.rope.theta,
        **_positions_to_hf(config),
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids) or None,
    }


def _positions_to_hf(config: ModelConfig) -> dict[str, Any]:
    """max_position_embeddings and rope_scaling, from which `context_length` finds config.max_position again.

    A linear stretch is written as transformers and vLLM read it, with the length before the stretch. Where no such
    length exists, original_max_position_embeddings says that the declared length is stretched already.
    """
    rope, length = config.rope, config.max_position
    if rope.kind == "default":
        return {"max_position_embeddings": length, "rope_scaling": None}
    settings: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "linear":
        before = math.ceil(length / rope.factor - 1e-6)
        if _stretched(before, rope.factor) == length:
            return {"max_position_embeddings": before, "rope_scaling": settings}
        return {"max_position_embeddings": length, "rope_scaling": {**settings, _ORIGINAL: max(1, before - 1)}}
    settings[_ORIGINAL] = rope.original_max_position
    if rope.kind == "llama3":
        settings |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    else:
        names = ("beta_fast", "beta_slow", "attention_factor", "truncate")
        settings |= {name: getattr(rope, name) for name in names}
    return {"max_position_embeddings": length, "rope_scaling": settings}
