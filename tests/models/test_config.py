"""config.json to ModelConfig: what is read, what is refused, and in which words."""

from __future__ import annotations

import dataclasses

import pytest

from models.registry import PRESETS, config_from_hf, config_to_hf, preset
from tests.golden.make_models import VARIANTS

LLAMA, QWEN2, QWEN3 = VARIANTS["llama31"], VARIANTS["qwen25"], VARIANTS["qwen3"]


def test_published_llama31_8b():
    """The numbers of the published config.json would not be the preset's."""
    published = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 128256,
    }
    assert config_from_hf(published) == preset("llama31_8b")


@pytest.mark.parametrize(
    "name, billions",
    [
        ("llama2_7b", 6.74),
        ("llama31_8b", 8.03),
        ("llama31_70b", 70.55),
        ("llama32_1b", 1.236),
        ("llama32_3b", 3.213),
        ("qwen25_05b", 0.494),
        ("qwen25_7b", 7.616),
        ("qwen25_72b", 72.71),
        ("qwen3_8b", 8.19),
    ],
)
def test_presets_have_the_published_parameter_counts(name, billions):
    """A benchmark with random weights would measure a model of another size."""
    c = PRESETS[name]
    attention = c.width * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
    biases = c.head_dim * (c.num_heads + 2 * c.num_kv_heads) * c.qkv_bias
    layer = attention + biases + 3 * c.width * c.ffn_width + 2 * c.width
    total = c.num_layers * layer + (1 if c.tie_embeddings else 2) * c.vocab_size * c.width
    assert total / 1e9 == pytest.approx(billions, rel=2e-3)


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match=r"preset 'gpt2' is unknown; known: llama2_7b, llama31_8b"):
        preset("gpt2")


@pytest.mark.parametrize("name", VARIANTS)
def test_written_config_reads_back(name):
    """An exported checkpoint would be another model."""
    config = config_from_hf(VARIANTS[name])
    assert config_from_hf(config_to_hf(config)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_written(name):
    assert config_from_hf(config_to_hf(PRESETS[name])) == PRESETS[name]


def test_a_config_that_its_family_cannot_express_is_refused():
    with pytest.raises(ValueError, match="a config.json of the qwen2 family cannot express"):
        config_to_hf(dataclasses.replace(preset("qwen25_7b"), mlp_bias=True))


def test_yarn_attention_factor_is_derived():
    """YaRN's scale of cos and sin would be left out, and long contexts with it."""
    rope = config_from_hf(VARIANTS["qwen25_yarn"]).rope
    assert (rope.kind, rope.factor, rope.original_max_position) == ("yarn", 4.0, 24)
    assert rope.attention_factor == pytest.approx(1.1386294)


def test_theta_inside_rope_parameters_wins():
    given = {**QWEN2, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    assert config_from_hf(given).rope.theta == 77.0


def test_original_length_at_the_top_level_wins():
    given = {**LLAMA, "original_max_position_embeddings": 128}
    assert config_from_hf(given).rope.original_max_position == 128


def test_model_type_stands_in_for_absent_architectures():
    assert config_from_hf({"model_type": "qwen3"}).head_dim == 128


def test_null_is_not_absent():
    """A checkpoint without eos ids would stop at LLaMA's default id 2, or count heads wrongly."""
    config = config_from_hf({**LLAMA, "eos_token_id": None, "num_key_value_heads": None, "head_dim": None})
    assert (config.eos_ids, config.num_kv_heads, config.head_dim) == ((), 4, 8)


@pytest.mark.parametrize(
    "inactive",
    [
        {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 0},
        {"use_sliding_window": True, "layer_types": ["full_attention"] * 2},
        {"attention_dropout": 0.5, "pretraining_tp": 2, "quantization_config": None, "partial_rotary_factor": 1.0},
    ],
)
def test_inactive_settings_are_accepted(inactive):
    assert config_from_hf({**QWEN2, **inactive}) == config_from_hf(QWEN2)


@pytest.mark.parametrize(
    "base, change, message",
    [
        (
            LLAMA,
            {"architectures": ["GPT2LMHeadModel"]},
            "architecture 'GPT2LMHeadModel' is not supported; known: Llama",
        ),
        ({}, {}, "architecture None is not supported; known: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; known: silu"),
        (LLAMA, {"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
        (LLAMA, {"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        (LLAMA, {"head_dim": 7}, "head_dim must be even for rotary positions, got 7"),
        (LLAMA, {"rms_norm_eps": -1e-5}, "rms_norm_eps must be a positive number, got -1e-05"),
        (QWEN2, {"rope_theta": float("nan")}, "default rope: rope_theta must be a positive number, got nan"),
        (LLAMA, {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        (LLAMA, {"eos_token_id": "</s>"}, "eos_token_id must be an id, a list of ids or null, got '</s>'"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "quantization_config is set; give a checkpoint with plain"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; known: 1"),
        (
            LLAMA,
            {"rope_scaling": {"type": "dynamic", "factor": 2}},
            "'dynamic' is not supported; known: default, linear",
        ),
        (LLAMA, {"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported; known: default, linear"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn"}}, "yarn rope: factor must be a positive number, got None"),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "llama3 rope: low_freq_factor must be a posi"),
        (LLAMA, {"rope_scaling": {"full_attention": {}}}, "rope settings must be one flat table for all layers"),
        (QWEN2, {"use_sliding_window": True}, "use_sliding_window is true; sliding-window attention is not supported"),
        (QWEN3, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types contains sliding_attention"),
    ],
)
def test_refused_in_one_line(base, change, message):
    """A setting that changes the result would be ignored, or end in a traceback from deep inside."""
    with pytest.raises(ValueError) as caught:
        config_from_hf({**base, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
