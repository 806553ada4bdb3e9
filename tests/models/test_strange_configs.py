"""A stranger's config.json: whatever stands in it, a usable model comes back, or one line that names the field."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import rope
from models.checkpoint import read_config
from models.config import ModelConfig, RopeConfig
from models.encoder_config import EncoderConfig
from models.registry import config_from_hf, config_to_hf, preset
from tests.golden.make_models import VARIANTS

DEEP: list[Any] = []
for _ in range(600):
    DEEP = [DEEP]
ODD = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**5, 10**9, 10**18, -(10**18), 2**31, 2**63, 10**400, 0.0, 0.5, 1.0, -1.5, 32.0,
    1e-300, 1e39, 1e300, math.nan, math.inf, -math.inf, "", "1", "yarn", "default", "LlamaForCausalLM", "line\nbreak\u2028",
    "x" * 100_000, "\ud800", [], [1], [[]], [["LlamaForCausalLM"]], ["full_attention", 3], [None], [1, "a"], ["a\nb"],
    list(range(5000)), {}, {"a": 1}, {"rope_type": "yarn"}, {"type": "linear", "factor": "4"}, {"factor": [4]}, DEEP,
]  # fmt: skip
BASES = {
    **{name: VARIANTS[name] for name in ("llama31", "llama_linear", "qwen25_yarn_all", "qwen3")},
    "transformers5": {
        **{name: value for name, value in VARIANTS["qwen25"].items() if name != "rope_theta"},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "truncate": True},
    },
}
EXTRA = (
    "head_dim", "attention_bias", "mlp_bias", "layer_types", "use_sliding_window", "sliding_window", "rope_theta", "rope_scaling",
    "rope_parameters", "original_max_position_embeddings", "partial_rotary_factor", "quantization_config", "auto_map",
)  # fmt: skip


def places(base: dict[str, Any]) -> list[tuple[str, ...]]:
    """The fields that are there or could be there, those of the rope tables included."""
    found: list[tuple[str, ...]] = [(name,) for name in dict.fromkeys((*base, *EXTRA))]
    tables = [name for name in ("rope_scaling", "rope_parameters") if isinstance(base.get(name), dict)]
    keys = ("factor", "rope_theta", "type", "rope_type", "original_max_position_embeddings", "low_freq_factor",
            "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")  # fmt: skip
    return found + [(table, key) for table in tables for key in keys]


def put(config: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    config = {name: dict(field) if isinstance(field, dict) else field for name, field in config.items()}
    table = config if len(place) == 1 else config[place[0]]
    if isinstance(table, dict):
        table[place[-1]] = value
    return config


def remove(config: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    (config if len(place) == 1 else config[place[0]]).pop(place[-1], None)
    return config


def outcome(config: Any) -> ModelConfig | str:
    """The model, which must be usable and writable, or the one line that refuses it; a second is too long."""
    began = time.monotonic()
    try:
        model = config_from_hf(config)
    except ValueError as error:
        message = str(error)
        assert message.startswith("config.json: "), message
        assert len(message.splitlines()) == 1 and len(message) < 600, message
        return message
    finally:
        assert time.monotonic() - began < 1.0
    with np.errstate(all="raise"):
        frequencies = rope.inverse_frequencies(model.rope, model.head_dim)
    assert np.isfinite(frequencies).all() and (frequencies >= 0).all()
    assert model.num_parameters <= 1e13 and model.max_position <= 2**24
    assert config_from_hf(config_to_hf(model)) == model
    return model


@pytest.mark.parametrize("name", BASES)
def test_every_field_replaced_by_every_odd_value(name):
    """A config.json of another make would end in a traceback, a hang or a model that writes nonsense."""
    assert isinstance(outcome(BASES[name]), ModelConfig)
    refused = 0
    for place in places(BASES[name]):
        for value in ODD:
            result = outcome(put(BASES[name], place, value))
            refused += isinstance(result, str)
    assert refused > 500


@pytest.mark.parametrize("name", BASES)
def test_every_field_left_out_or_nested(name):
    for place in places(BASES[name]):
        outcome(remove(BASES[name], place))
        value = BASES[name].get(place[0])
        for nested in ([value], {"value": value}, [[value]], {place[0]: {place[0]: value}}, str(value)):
            outcome(put(BASES[name], place[:1], nested))


@settings(derandomize=True, deadline=2000, max_examples=300, database=None)
@given(data=st.data())
def test_several_fields_at_once(data):
    """Two odd values may meet in one formula where each alone is refused or harmless."""
    config = BASES[data.draw(st.sampled_from(sorted(BASES)))]
    numbers = st.one_of(st.integers(-2, 2**20), st.floats(), st.integers(), st.floats(0, 100))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(places(config)))
        config = put(config, place, data.draw(st.one_of(st.sampled_from(ODD), numbers)))
    outcome(config)


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "max_position_embeddings")  # fmt: skip


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [10**18, 2**31, 10**8, 32.0, "32", True, 0, -1, [32], math.nan])
def test_every_size_has_a_type_and_a_bound(field, value):
    """num_hidden_layers of 100,000 would hang and vocab_size of 10**18 overflow, before a weight is looked for."""
    message = outcome({**VARIANTS["llama31"], field: value})
    assert isinstance(message, str) and field in message


def test_a_hundred_thousand_layers_are_refused_at_once():
    assert outcome({**VARIANTS["llama31"], "num_hidden_layers": 100_000}) == (
        "config.json: num_hidden_layers must be at most 512, got 100000"
    )


def test_sizes_that_are_only_together_too_large():
    """Each number is plausible, and no machine holds their product."""
    large = dict(hidden_size=2**17, intermediate_size=2**20, num_attention_heads=1024, num_hidden_layers=512)
    message = outcome({**VARIANTS["llama31"], **large})
    assert message == "config.json: a model of these sizes has 2.3e+14 parameters; at most 1e+13 are supported"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"architectures": [["LlamaForCausalLM"]]},
            "architectures must be a list of names, got [['LlamaForCausalLM']]",
        ),
        ({"architectures": {"a": 1}}, "architectures must be a list of names, got {'a': 1}"),
        ({"architectures": None, "model_type": ["llama"]}, "model_type must be a name, got ['llama']"),
        ({"model_type": "qwen2"}, "model_type 'qwen2' contradicts architecture 'LlamaForCausalLM'"),
        ({"layer_types": 2}, "layer_types must be a list of names or null, got 2"),
        ({"layer_types": [1, 2]}, "layer_types must be a list of names or null, got [1, 2]"),
        ({"use_sliding_window": "no"}, "use_sliding_window must be true or false, got 'no'"),
        ({"rope_theta": 1}, "theta must be above 1 (rope_theta in config.json), got 1.0"),
        ({"rope_theta": 0.5}, "rope_theta must lie between 1 and 1e+15, got 0.5"),
        ({"rope_theta": "10000"}, "rope_theta must be a positive number, got '10000'"),
        ({"rope_theta": 10**400}, "rope_theta must lie between 1 and 1e+15, got an integer of 1329 bits"),
        ({"rope_scaling": "yarn"}, "rope settings must be one flat table for all layers, got 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "linear rope: factor must be a positive number, got '4'"),
        ({"rms_norm_eps": 1e-300}, "rms_norm_eps must lie between 1e-30 and 1, got 1e-300"),
        ({"eos_token_id": 2**40}, "eos_token_id must be at most 2147483647, got 1099511627776"),
        ({"eos_token_id": list(range(2000))}, "eos_token_id must hold at most 1024 ids, got 2000"),
        ({"hidden_size": 30, "head_dim": None}, "num_attention_heads 4 does not divide hidden_size 30; give head_dim"),
    ],
)
def test_odd_values_are_named(change, message):
    """The message would not say what to mend."""
    found = outcome({**VARIANTS["llama31"], **change})
    assert isinstance(found, str) and message in found


def test_code_that_auto_map_names_is_ignored_where_the_architecture_is_known():
    """LLaMA checkpoints that bring their own attention code would be refused, although nothing of it is needed."""
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM", "AutoConfig": ["a", None]}}
    assert outcome({**VARIANTS["llama31"], **own}) == config_from_hf(VARIANTS["llama31"])


def test_code_that_auto_map_names_is_not_run_for_an_unknown_architecture(tmp_path):
    """A file of Python in the checkpoint would run with the user's rights."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = {"architectures": ["Evil"], "model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="'Evil' is not supported, and the code that its auto_map names is never run; k"
    ):
        read_config(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", "{", '{"num_hidden_layers": ' + "1" * 5000 + "}", '{"a":' * 100_000, '{"vocab_size": NaN}',
     '{"architectures": ["LlamaForCausalLM"], "vocab_size": 8, "vocab_size": 9}', '{"architectures": [1]}'],
)  # fmt: skip
def test_the_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelConfig)])
def test_every_field_of_a_model_made_in_python_is_checked(field):
    """A model that is made without a config.json would fail deep inside the compiler."""
    good = preset("llama31_8b")
    for value in ("odd", -1, 2.5, math.nan, {}, [1], object()):
        with pytest.raises(ValueError) as caught:
            dataclasses.replace(good, **{field: value})
        assert field in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RopeConfig)])
def test_every_field_of_rope_made_in_python_is_checked(field):
    good = preset("llama31_8b").rope
    for value in ("odd", -1, math.nan, math.inf, {}, [1], None):
        with pytest.raises(ValueError) as caught:
            dataclasses.replace(good, **{field: value})
        assert (field if field != "kind" else "rope type") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_kv_heads": 5}, "num_kv_heads 5 does not divide num_heads 32"),
        ({"head_dim": 127}, "head_dim must be even for rotary positions, got 127"),
        ({"eos_ids": (1, -1)}, "eos_ids must be an integer of at least 0, got -1"),
        (
            {"width": 2**17, "ffn_width": 2**20, "num_layers": 512},
            "has 2.1e+14 parameters; at most 1e+13 are supported",
        ),
    ],
)
def test_fields_of_a_model_made_in_python_fit_together(change, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(preset("llama31_8b"), **change)
    assert message in str(caught.value)


ENCODER = dict(
    model_type="xlm-roberta", architectures=["XLMRobertaModel"], vocab_size=48, hidden_size=24, num_hidden_layers=2,
    num_attention_heads=3, intermediate_size=40, max_position_embeddings=24, type_vocab_size=1, layer_norm_eps=1e-5,
    hidden_act="gelu", pad_token_id=1, position_embedding_type="absolute",
)  # fmt: skip
ENCODER_FILES: dict[str, Any] = {
    "config.json": ENCODER,
    "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": False},
    "tokenizer_config.json": {"model_max_length": 10**30},
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ],
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
}


def write_encoder(directory, files) -> None:
    (directory / "1_Pooling").mkdir(exist_ok=True)
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))


def encoder_outcome(directory) -> EncoderConfig | str:
    began = time.monotonic()
    try:
        config = EncoderConfig.from_directory(directory)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert str(directory) in message and len(message.splitlines()) == 1 and len(message) < 600, message
        return message
    finally:
        assert time.monotonic() - began < 1.0
    assert 3 <= config.max_seq_length <= config.max_position_embeddings - config.position_offset
    assert 0 <= config.pad_token_id < config.vocab_size
    return config


def test_every_field_of_an_encoder_replaced_by_every_odd_value(tmp_path):
    """An encoder of another make would end in a traceback, a hang or vectors of nonsense."""
    write_encoder(tmp_path, ENCODER_FILES)
    assert isinstance(encoder_outcome(tmp_path), EncoderConfig)
    refused = 0
    for file in ("config.json", "sentence_bert_config.json", "tokenizer_config.json", "1_Pooling/config.json"):
        good = ENCODER_FILES[file]
        for field in (*good, "auto_map", "pooling_mode"):
            for value in ODD:
                (tmp_path / file).write_text(json.dumps({**good, field: value}))
                refused += isinstance(encoder_outcome(tmp_path), str)
            (tmp_path / file).write_text(json.dumps({name: v for name, v in good.items() if name != field}))
            encoder_outcome(tmp_path)
        for value in ODD:
            (tmp_path / file).write_text(json.dumps(value))
            encoder_outcome(tmp_path)
        (tmp_path / file).write_text(json.dumps(good))
    assert refused > 400


def test_modules_of_an_encoder_replaced_by_odd_values(tmp_path):
    """modules.json names a directory: one outside the checkpoint would be read."""
    write_encoder(tmp_path, ENCODER_FILES)
    good = ENCODER_FILES["modules.json"]
    for value in ODD:
        for modules in (value, [value], [good[0], {**good[1], "type": value}], [good[0], {**good[1], "path": value}]):
            (tmp_path / "modules.json").write_text(json.dumps(modules))
            encoder_outcome(tmp_path)
    for path in ("../elsewhere", "/etc", "1_Pooling/../../elsewhere", "..\\elsewhere", "a\nb", "\0"):
        (tmp_path / "modules.json").write_text(json.dumps([good[0], {**good[1], "path": path}]))
        message = encoder_outcome(tmp_path)
        assert isinstance(message, str) and "is not a list of sentence-transformers modules" in message


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_hidden_layers": 100_000}, "num_hidden_layers must be at most 512, got 100000"),
        ({"vocab_size": 10**18}, "vocab_size must be at most 16777216, got 1000000000000000000"),
        ({"type_vocab_size": "2"}, "type_vocab_size must be a positive integer, got '2'"),
        ({"layer_norm_eps": [1]}, "layer_norm_eps must be a positive number, got [1]"),
        ({"pad_token_id": 48}, "pad_token_id must be at most 47, got 48"),
        ({"max_position_embeddings": 4}, "max_position_embeddings must be at least 5, got 4"),
        ({"model_type": ["bert"]}, "unknown encoder ['bert']; known are bert, xlm-roberta, roberta"),
        ({"architectures": ["OwnModel"], "auto_map": {"AutoModel": "own.OwnModel"}}, "is never run; known are bert"),
        (
            dict(hidden_size=3 * 2**15, intermediate_size=2**20, num_hidden_layers=512),
            "a model of these sizes has 1.3e+14 parameters; at most 1e+13 are supported",
        ),
    ],
)
def test_odd_values_of_an_encoder_are_named(tmp_path, change, message):
    write_encoder(tmp_path, {**ENCODER_FILES, "config.json": {**ENCODER, **change}})
    found = encoder_outcome(tmp_path)
    assert isinstance(found, str) and message in found


def test_a_directory_in_place_of_an_encoder_file(tmp_path):
    """A directory would be taken for a file that is not there, and its settings for the defaults."""
    for name in ENCODER_FILES:
        directory = tmp_path / name.replace("/", "_")
        directory.mkdir()
        write_encoder(directory, ENCODER_FILES)
        (directory / name).unlink()
        (directory / name).mkdir()
        message = encoder_outcome(directory)
        assert isinstance(message, str) and "must be a file, and is a directory" in message
