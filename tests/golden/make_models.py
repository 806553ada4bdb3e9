"""Makes tests/golden/decoder_*.npz: tiny random checkpoints of every decoder variant, and transformers' logits.

    python -m tests.golden.make_models        (needs the parity extra: torch)

Each file holds config.json (as bytes), the weights under Hugging Face's names (the upper 16 bits of a float32, which is
bfloat16), tokens int32 [2,T] and logits float32 [2,T,V]. The two rows share their first SHARED tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TOKENS, SHARED = 61, 40

_LLAMA: dict[str, Any] = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    hidden_act="silu",
)
_LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
_QWEN2 = {
    **_LLAMA,
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "use_sliding_window": False,
    "sliding_window": 8,
    "max_window_layers": 1,
}
_QWEN3 = {**_QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 12}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama2": {**_LLAMA, "num_key_value_heads": 4},
    "llama31": {**_LLAMA, "rope_theta": 500_000.0, "rope_scaling": _LLAMA3_ROPE},
    "llama32_tied": {
        **_LLAMA,
        "rope_theta": 500_000.0,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 32.0},
        "tie_word_embeddings": True,
    },
    "llama_head_dim": {**_LLAMA, "head_dim": 24},
    "llama_biases": {**_LLAMA, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.05, "rope_theta": 300.0},
    "llama_linear": {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "qwen25": _QWEN2,
    "qwen25_tied": {**_QWEN2, "tie_word_embeddings": True},
    "qwen25_yarn": {
        **_QWEN2,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    },
    "qwen25_yarn_all": {
        **_QWEN2,
        "rope_scaling": dict(
            rope_type="yarn",
            factor=4.0,
            original_max_position_embeddings=24,
            beta_fast=4.0,
            beta_slow=0.5,
            mscale=1.2,
            mscale_all_dim=0.4,
            truncate=False,
        ),
    },
    "qwen3": _QWEN3,
    "qwen3_bias": {**_QWEN3, "attention_bias": True, "tie_word_embeddings": True},
}


def inputs(vocab_size: int) -> np.ndarray:
    """int32 [2,TOKENS]; the rows are equal up to SHARED."""
    tokens = np.random.default_rng(5).integers(0, vocab_size, (2, TOKENS), dtype=np.int32)
    tokens[1, :SHARED] = tokens[0, :SHARED]
    return tokens


def random_hf_model(config: dict[str, Any]) -> Any:
    """The torch model with weights large enough that attention is sharp and no term is negligible."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = {name: value for name, value in config.items() if name != "architectures"}
    hf_config = CONFIG_MAPPING[config["model_type"]](**json.loads(json.dumps(settings)))
    model = AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            value = 1 + 0.2 * noise if "norm" in name else 0.3 * noise
            weight.copy_(value.bfloat16().float())
    return model


def hf_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """float32 [B,T,V] of one forward."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def main() -> None:
    """Writes one file a variant."""
    for name, config in VARIANTS.items():
        model = random_hf_model(config)
        tokens = inputs(config["vocab_size"])
        weights = {
            f"weight:{key}": (value.numpy().view(np.uint32) >> 16).astype(np.uint16)
            for key, value in model.state_dict().items()
            if not (config["tie_word_embeddings"] and key == "lm_head.weight")
        }
        np.savez_compressed(
            HERE / f"decoder_{name}.npz",
            config=np.frombuffer(json.dumps(config).encode(), np.uint8),
            tokens=tokens,
            logits=hf_logits(model, tokens),
            **weights,
        )


if __name__ == "__main__":
    main()
