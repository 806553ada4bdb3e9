"""LLaMA-2, 3, 3.1 and 3.2: config.json, Hugging Face's weight names, and the published sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models import hf
from models.config import ModelConfig, RopeConfig

ARCHITECTURE = "LlamaForCausalLM"

# What transformers' LlamaConfig assumes for a field that config.json leaves out.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    hidden_act="silu",
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
)

# Our name of a module -> Hugging Face's, where they differ.
_NAMES = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "attn": "self_attn",
    "input_norm": "input_layernorm",
    "post_attn_norm": "post_attention_layernorm",
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a LlamaForCausalLM config.json.

    Raises:
      ValueError: a field that is out of range or asks for what this decoder does not do.
    """
    config = {**_DEFAULTS, **config}
    attention_bias = hf.flag(config, "attention_bias")
    return ModelConfig(
        family="llama",
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=hf.flag(config, "mlp_bias"),
        **hf.decoder_fields(config),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a LLaMA model."""
    own = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return {"architectures": [ARCHITECTURE], "model_type": "llama", **hf.decoder_to_hf(config), **own}


def hf_name(path: tuple[str, ...]) -> str:
    """Hugging Face's name of the weight at `path` of our tree; Qwen's weights have the same names.

    ("layers_3", "attn", "q_proj", "weight") -> "model.layers.3.self_attn.q_proj.weight"
    """
    parts = [_NAMES.get(part, part) for part in path]
    if parts[0].startswith("layers_"):
        parts[0] = "model.layers." + parts[0].removeprefix("layers_")
    return ".".join(parts)


_LLAMA2_7B = ModelConfig(
    family="llama",
    vocab_size=32_000,
    width=4096,
    ffn_width=11_008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    max_position=4096,
    rms_norm_eps=1e-5,
    bos_id=1,
    eos_ids=(2,),
)
_LLAMA31_8B = ModelConfig(
    family="llama",
    vocab_size=128_256,
    width=4096,
    ffn_width=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_position=131_072,
    rope=RopeConfig("llama3", 500_000.0, factor=8.0, original_max_position=8192),
    rms_norm_eps=1e-5,
    bos_id=128_000,
    eos_ids=(128_001, 128_008, 128_009),
)
_LLAMA32_ROPE = dataclasses.replace(_LLAMA31_8B.rope, factor=32.0)

PRESETS: dict[str, ModelConfig] = {
    "llama2_7b": _LLAMA2_7B,
    "llama31_8b": _LLAMA31_8B,
    "llama31_70b": dataclasses.replace(_LLAMA31_8B, width=8192, ffn_width=28_672, num_layers=80, num_heads=64),
    "llama32_1b": dataclasses.replace(
        _LLAMA31_8B, width=2048, ffn_width=8192, num_layers=16, head_dim=64, rope=_LLAMA32_ROPE, tie_embeddings=True
    ),
    "llama32_3b": dataclasses.replace(
        _LLAMA31_8B, width=3072, ffn_width=8192, num_layers=28, num_heads=24, rope=_LLAMA32_ROPE, tie_embeddings=True
    ),
}
