"""Logits of every decoder variant against those stored from transformers: a wrong answer here is a wrong model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import models
from models.sharding import make_mesh
from tests.golden.decoders import write_checkpoint
from tests.golden.make_models import SHARED, VARIANTS
from tests.models import forwards

TOLERANCE = 2e-4
CACHED = ("llama31", "llama32_tied", "qwen25_yarn", "qwen3")  # all variants: test_parity.py


@pytest.mark.parametrize("name", VARIANTS)
def test_plain_forward(name, tmp_path):
    """A checkpoint of this variant would give other logits than transformers."""
    tokens, expected = write_checkpoint(name, tmp_path)
    np.testing.assert_allclose(forwards.plain(models.load(tmp_path), tokens), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CACHED)
def test_chunked_prefill_and_decoding(name, tmp_path):
    """A document read in chunks, or an answer written token by token, would not follow the model."""
    tokens, expected = write_checkpoint(name, tmp_path)
    model = models.load(tmp_path)
    prefilled, context = forwards.prefill(model, tokens[:1, :SHARED])
    np.testing.assert_allclose(prefilled, expected[:1, :SHARED], atol=TOLERANCE, rtol=0)
    decoded = forwards.decode(model, context, tokens, SHARED)
    np.testing.assert_allclose(decoded, expected[:, SHARED:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama31", "llama_linear", "qwen25_yarn", "qwen25_yarn_all"])
def test_rope_scaling_matters_in_the_golden_numbers(name, tmp_path):
    """The stored sequences would be too short to notice an ignored rope_scaling."""
    tokens, expected = write_checkpoint(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    assert np.abs(forwards.plain(models.load(tmp_path), tokens) - expected).max() > 0.05


@pytest.mark.parametrize("name", ["llama31", "qwen25_yarn", "qwen3"])
def test_rope_parameters_spelling(name, tmp_path):
    """A checkpoint saved by transformers 5, which writes rope_parameters, would load with other positions."""
    tokens, expected = write_checkpoint(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **scaling}
    (tmp_path / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(forwards.plain(models.load(tmp_path), tokens), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama_biases", "qwen3"])
def test_sharded_forward(name, tmp_path):
    """A model split over eight devices would answer differently, or not at all for a number of rows like three."""
    tokens, expected = write_checkpoint(name, tmp_path)
    model = models.load(tmp_path, mesh=make_mesh((2, 2, 2)))
    rows = [0, 1, 0]
    np.testing.assert_allclose(model.logits(tokens[rows]), expected[rows], atol=TOLERANCE, rtol=0)


def test_bfloat16_forward_stays_close(tmp_path):
    """The dtype of accelerators would give nonsense."""
    tokens, expected = write_checkpoint("qwen3", tmp_path)
    model = models.load(tmp_path, dtype="bfloat16")
    logits = forwards.plain(model, tokens)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).mean() < 0.1
