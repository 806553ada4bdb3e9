"""Qwen2.5 and Qwen3: config.json and the published sizes; the weights are named as LLaMA's, plus q_norm and k_norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models import hf
from models.config import ModelConfig, RopeConfig

QWEN2, QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"

# What transformers' Qwen2Config and Qwen3Config assume for a field that config.json leaves out.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=151_936,
    hidden_size=4096,
    intermediate_size=22_016,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    hidden_act="silu",
    max_position_embeddings=32_768,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)


def from_hf(config: Mapping[str, Any], architecture: str) -> ModelConfig:
    """ModelConfig of a Qwen2ForCausalLM or Qwen3ForCausalLM config.json.

    Qwen2 always has biases on queries, keys and values and never elsewhere; Qwen3 has attention_bias, off by default,
    on all four projections, and normalises queries and keys.

    Raises:
      ValueError: a field that is out of range or asks for what this decoder does not do.
    """
    if architecture == QWEN2:
        return ModelConfig(family="qwen2", qkv_bias=True, **hf.decoder_fields({**_DEFAULTS, **config}))
    config = {**_DEFAULTS, "head_dim": 128, "attention_bias": False, **config}
    bias = hf.flag(config, "attention_bias")
    return ModelConfig(family="qwen3", qkv_bias=bias, output_bias=bias, qk_norm=True, **hf.decoder_fields(config))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a Qwen model."""
    qwen3 = config.family == "qwen3"
    own: dict[str, Any] = {"use_sliding_window": False}
    if qwen3:
        own["attention_bias"] = config.qkv_bias
    architecture = QWEN3 if qwen3 else QWEN2
    return {"architectures": [architecture], "model_type": config.family, **hf.decoder_to_hf(config), **own}


_QWEN25_7B = ModelConfig(
    family="qwen2",
    vocab_size=152_064,
    width=3584,
    ffn_width=18_944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    max_position=32_768,
    rope=RopeConfig(theta=1_000_000.0),
    qkv_bias=True,
    bos_id=151_643,
    eos_ids=(151_645, 151_643),
)

PRESETS: dict[str, ModelConfig] = {
    "qwen25_05b": dataclasses.replace(
        _QWEN25_7B,
        vocab_size=151_936,
        width=896,
        ffn_width=4864,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        tie_embeddings=True,
    ),
    "qwen25_7b": _QWEN25_7B,
    "qwen25_72b": dataclasses.replace(
        _QWEN25_7B, width=8192, ffn_width=29_568, num_layers=80, num_heads=64, num_kv_heads=8
    ),
    "qwen3_8b": ModelConfig(
        family="qwen3",
        vocab_size=151_936,
        width=4096,
        ffn_width=12_288,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_position=40_960,
        rope=RopeConfig(theta=1_000_000.0),
        qk_norm=True,
        bos_id=151_643,
        eos_ids=(151_645,),
    ),
}
