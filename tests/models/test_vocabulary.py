"""Ids beyond the embedding: refused before a weight is read."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

import models
from models.checkpoint import load_params, read_config
from models.safetensors_io import SafetensorsDirectory
from models.tokenizer import load_tokenizer
from models.vocabulary import check_vocabulary


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path, monkeypatch):
    """A copy of the tiny checkpoint (V 264, a tokenizer of 259 ids) whose weights must not be read."""
    monkeypatch.setattr(SafetensorsDirectory, "read", lambda *_: pytest.fail("read a weight"))
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def refusal(path, call=models.load):
    with pytest.raises(ValueError) as caught:
        call(path)
    message = str(caught.value)
    assert message.isprintable() and str(path) in message
    return message


def change(file, **fields):
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**values, **fields}))


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_without_a_resized_embedding(checkpoint, tiny_tokenizer, special):
    """Every answer would be token 0 for ever, with exit status 0."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens([f"<added {i}>" for i in range(6)], special_tokens=special)
    tokenizer.save_pretrained(checkpoint)
    message = refusal(checkpoint)
    assert "the tokenizer has 1 more ids than the model's vocab_size of 264" in message
    assert "the last is 264 for '<added 5>': resize the embedding" in message


def test_a_tokenizer_as_large_as_the_embedding_loads(tiny_checkpoint, tmp_path):
    """A checkpoint without padding of its vocabulary would be refused."""
    from transformers import AutoTokenizer

    path = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([f"<added {i}>" for i in range(5)])
    tokenizer.save_pretrained(path)
    assert models.load(path).tokenizer.vocab_size == 264


def test_end_and_start_ids_beyond_the_embedding(checkpoint):
    """An answer could never end, or would begin with a token that the model does not have."""
    change(checkpoint / "generation_config.json", eos_token_id=[2, 300])
    assert "the special token id 300 lies beyond the model's vocab_size of 264" in refusal(checkpoint)
    (checkpoint / "generation_config.json").unlink()
    for name in ("eos_token_id", "bos_token_id"):
        before = json.loads((checkpoint / "config.json").read_text())[name]
        change(checkpoint / "config.json", **{name: 264})
        assert f"{name} 264 lies beyond its vocab_size of 264" in refusal(checkpoint)
        change(checkpoint / "config.json", **{name: before})


def test_a_model_without_a_tokenizer(checkpoint):
    """Weights alone have ids too."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (checkpoint / file).unlink(missing_ok=True)
    change(checkpoint / "config.json", eos_token_id=999)
    assert "eos_token_id 999 lies beyond its vocab_size of 264" in refusal(checkpoint)


def test_an_embedding_larger_than_the_tokenizer_is_padding(tiny_checkpoint):
    """Published checkpoints round their vocabulary up."""
    config = read_config(tiny_checkpoint)
    check_vocabulary(load_tokenizer(tiny_checkpoint), dataclasses.replace(config, vocab_size=1024), tiny_checkpoint)
    load_params(tiny_checkpoint, config)
