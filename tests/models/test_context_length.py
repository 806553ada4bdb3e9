"""How long a document a checkpoint allows when its rotary positions are stretched, and where theta comes from."""

from __future__ import annotations

import pytest

from models.registry import PRESETS, config_from_hf, config_to_hf
from tests.golden.make_models import VARIANTS

QWEN25 = {**config_to_hf(PRESETS["qwen25_7b"]), "rope_theta": 1e6}
QWEN3 = config_to_hf(PRESETS["qwen3_8b"])
LLAMA2 = config_to_hf(PRESETS["llama2_7b"])
LLAMA31 = config_to_hf(PRESETS["llama31_8b"])
TRANSFORMERS5 = {name: value for name, value in QWEN25.items() if name not in ("rope_theta", "rope_scaling")}
TRANSFORMERS5["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}


def yarn(spelling="rope_type", factor=4.0, original=32_768, **more):
    given = {"original_max_position_embeddings": original} if original else {}
    return {spelling: "yarn", "factor": factor, **given, **more}


def linear(factor, spelling="type", **more):
    return {spelling: "linear", "factor": factor, **more}


@pytest.mark.parametrize("scaling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("spelling", ["type", "rope_type"])
@pytest.mark.parametrize(
    "base, declared, original, factor, expected",
    [
        (QWEN25, 32_768, 32_768, 4.0, 131_072),  # as the card of Qwen2.5 says
        (QWEN25, 32_768, None, 4.0, 131_072),
        (QWEN25, 131_072, 32_768, 4.0, 131_072),  # the number is stretched already
        (QWEN25, 32_768, 32_768, 2, 65_536),
        (QWEN25, 32_768, 32_768, 1.0, 32_768),
        (QWEN25, 131_072, 32_768, None, 131_072),  # the factor follows from the two lengths
        (QWEN3, 40_960, 32_768, 4.0, 131_072),  # as the card of Qwen3 says
        (QWEN3, 40_960, 32_768, 1.1, 40_960),  # a declared length is never shortened
        (QWEN3, 40_960, 40_960, 2.5, 102_400),
        (LLAMA2, 4096, 4096, 32.0, 131_072),
    ],
)
def test_yarn_allows_the_stretched_length(base, declared, original, factor, expected, spelling, scaling):
    """A third of a document would be cut although the checkpoint reads all of it."""
    rope = yarn(spelling, factor, original)
    config = config_from_hf({**base, "max_position_embeddings": declared, "rope_scaling": None, scaling: rope})
    assert config.max_position == expected
    assert config.rope.original_max_position == (original or declared)


def test_the_original_length_may_stand_at_the_top_level():
    given = {**QWEN25, "original_max_position_embeddings": 16_384, "rope_scaling": yarn(original=None)}
    assert config_from_hf(given).max_position == 65_536


@pytest.mark.parametrize(
    "declared, scaling, expected",
    [
        (4096, linear(4.0), 16_384),
        (4096, linear(4, "rope_type"), 16_384),
        (4096, linear(4, original_max_position_embeddings=4096), 16_384),
        (16_384, linear(4, original_max_position_embeddings=4096), 16_384),  # the number is stretched already
        (4096, linear(1.0), 4096),
        (4096, linear(2.5), 10_240),
        (100, linear(1.15), 115),  # 114.99999999999999 in floating point
    ],
)
def test_linear_scaling_allows_the_stretched_length(declared, scaling, expected):
    """A document would be cut at 4,096 tokens where the checkpoint reads 16,384."""
    given = {**LLAMA2, "max_position_embeddings": declared, "rope_scaling": scaling}
    assert config_from_hf(given).max_position == expected


@pytest.mark.parametrize("spelling", ["type", "rope_type"])
@pytest.mark.parametrize("declared, factor", [(131_072, 8.0), (131_072, 32.0), (8192, 8.0)])
def test_llama3_rope_keeps_the_declared_length(declared, factor, spelling):
    """LLaMA-3.1 would be given 65,536 or a million positions instead of its 131,072."""
    scaling = {**LLAMA31["rope_scaling"], "factor": factor}
    scaling[spelling] = scaling.pop("rope_type")
    config = config_from_hf({**LLAMA31, "max_position_embeddings": declared, "rope_scaling": scaling})
    assert (config.max_position, config.rope.original_max_position) == (declared, 8192)


def test_yarn_frequencies_do_not_depend_on_the_stretched_length():
    """The stretched length in place of the original one would change every angle, and with it every answer."""
    given = {**QWEN25, "rope_scaling": yarn()}
    declared_stretched = {**given, "max_position_embeddings": 131_072}
    config = config_from_hf(given)
    assert config == config_from_hf(declared_stretched)
    assert (config.rope.factor, config.rope.original_max_position) == (4.0, 32_768)
    assert config.rope.attention_factor == pytest.approx(1.1386294)


@pytest.mark.parametrize(
    "scaling", [yarn(), yarn("type"), yarn(rope_theta=1e6), yarn(rope_theta=None), yarn(type="yarn"), linear(4.0)]
)
def test_scaling_added_to_a_config_of_transformers_5_keeps_its_theta(scaling):
    """Theta would fall back to 10,000 and the model would write nonsense."""
    config = config_from_hf({**TRANSFORMERS5, "rope_scaling": scaling})
    assert (config.rope.theta, config.max_position) == (1e6, 131_072)
    assert config.rope.kind == scaling.get("rope_type", scaling.get("type"))


@pytest.mark.parametrize("none", [None, {}])
def test_an_empty_rope_scaling_leaves_rope_parameters_alone(none):
    given = {**TRANSFORMERS5, "rope_parameters": {**yarn(), "rope_theta": 1e6}, "rope_scaling": none}
    config = config_from_hf(given)
    assert (config.rope.kind, config.rope.theta, config.max_position) == ("yarn", 1e6, 131_072)


def test_the_same_scaling_in_both_tables_is_no_contradiction():
    both = {"rope_parameters": {**yarn(), "rope_theta": 1e6}, "rope_scaling": yarn("type")}
    assert config_from_hf({**TRANSFORMERS5, **both}).max_position == 131_072


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"rope_parameters": {**yarn(factor=2.0), "rope_theta": 1e6}, "rope_scaling": yarn()},
            "contradict each other: 'factor' is 2.0 and 4.0",
        ),
        ({"rope_scaling": yarn(rope_theta=5e5)}, "contradict each other: 'rope_theta' is 1000000.0 and 500000.0"),
        (
            {"rope_parameters": {**yarn(), "rope_theta": 1e6}, "rope_scaling": linear(4.0)},
            "contradict each other: 'rope_type' is 'yarn' and 'linear'",
        ),
        ({"rope_scaling": yarn(type="linear")}, "names two rope types, 'yarn' and 'linear'"),
        ({"rope_scaling": {"factor": 4.0}}, "give factor 4.0 without a type that stretches"),
        ({"rope_scaling": yarn(factor=0.5)}, "yarn rope: factor must lie between 1 and 100000, got 0.5"),
        ({"rope_scaling": yarn(original=32_768.5)}, "original_max_position_embeddings must be a positive integer"),
        ({"rope_scaling": yarn(factor=1e4)}, "32768 positions times factor 10000 are 327680000; at most 16777216"),
        ({"rope_scaling": yarn(beta_fast=1, beta_slow=32)}, "beta_fast 1.0 must not lie below beta_slow 32.0"),
    ],
)
def test_contradicting_rope_settings_are_refused_in_one_line(change, message):
    """One of two settings would be taken without a word."""
    with pytest.raises(ValueError) as caught:
        config_from_hf({**TRANSFORMERS5, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.0, 1.15, 2.5, 3.0, 4.0, 7.7, 1e3])
@pytest.mark.parametrize("declared", [1, 100, 4096, 4097])
def test_an_exported_linear_stretch_allows_the_same_length(declared, factor):
    """Every export would stretch the context once more, in this project or in another tool."""
    given = {**LLAMA2, "max_position_embeddings": declared, "rope_scaling": linear(factor)}
    config = config_from_hf(given)
    written = config_to_hf(config)
    assert config_from_hf(written) == config
    assert written["max_position_embeddings"] == declared  # transformers and vLLM multiply it by factor
    already = {**linear(factor), "original_max_position_embeddings": 7}
    stretched = config_from_hf({**given, "rope_scaling": already})
    assert config_from_hf(config_to_hf(stretched)) == stretched


def test_golden_variants_allow_what_their_configs_say():
    lengths = {name: config_from_hf(config).max_position for name, config in VARIANTS.items()}
    assert lengths.pop("llama_linear") == 640  # 256 x 2.5
    assert set(lengths.values()) == {256}
