"""Every decoder variant against transformers, live, in float32: needs torch."""

from __future__ import annotations

import json

import numpy as np
import pytest

import models
from models import rope
from models.checkpoint import export_hf
from models.hf import rope_from_hf
from models.registry import config_from_hf
from tests.golden.decoders import write_checkpoint
from tests.golden.make_models import SHARED, VARIANTS, hf_logits, inputs, random_hf_model
from tests.models import forwards

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
TOLERANCE = 2e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_checkpoint_that_transformers_saved(name, tmp_path):
    """Plain forward, chunked prefill and decoding of a directory written by save_pretrained."""
    model = random_hf_model(VARIANTS[name])
    model.save_pretrained(tmp_path)
    tokens = inputs(model.config.vocab_size)
    expected = hf_logits(model, tokens)
    ours = models.load(tmp_path)
    prefilled, _ = forwards.prefill(ours, tokens)
    first, context = forwards.prefill(ours, tokens[:1, :SHARED])
    for logits, reference in (
        (forwards.plain(ours, tokens), expected),
        (prefilled, expected),
        (first, expected[:1, :SHARED]),
        (forwards.decode(ours, context, tokens, SHARED), expected[:, SHARED:]),
    ):
        np.testing.assert_allclose(logits, reference, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_reads_what_we_export(name, tmp_path):
    """An exported model would be another model in every other tool."""
    from transformers import AutoModelForCausalLM

    tokens, expected = write_checkpoint(name, tmp_path)
    ours = models.load(tmp_path)
    export_hf(ours.params, ours.config, tmp_path / "export")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export", attn_implementation="eager").float().eval()
    np.testing.assert_allclose(hf_logits(theirs, tokens), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.7},
        {"rope_type": "yarn", "factor": 8.0, "mscale": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.25, "beta_fast": 20, "beta_slow": 3},
        {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 2048},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4},
        {"rope_type": "yarn", "factor": 1.0, "truncate": False},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"type": "llama3", "factor": 32, "low_freq_factor": 2, "high_freq_factor": 3},
        {"type": "linear", "factor": 3.0},
    ],
)
def test_rope_frequencies(scaling):
    """A rope setting would be read in another sense than transformers reads it."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    fields = dict(
        hidden_size=512, num_attention_heads=8, max_position_embeddings=8192, rope_theta=50_000.0, rope_scaling=scaling
    )
    theirs = LlamaConfig(**json.loads(json.dumps(fields)))
    frequencies, factor = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]](theirs)
    ours = rope_from_hf(fields)
    np.testing.assert_allclose(rope.inverse_frequencies(ours, 64), frequencies.numpy(), rtol=2e-6)
    assert ours.attention_factor == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_absent_fields_have_the_defaults_of_transformers(model_type):
    """A terse config.json would be completed with other numbers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    terse = config_from_hf({"model_type": model_type})
    theirs = CONFIG_MAPPING[model_type]().to_dict()
    assert terse == config_from_hf({**theirs, "architectures": None})
