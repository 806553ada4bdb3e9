"""Sampling settings of a checkpoint's generation_config.json: those that are named, and nothing silently ignored."""

import json
import shutil

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.generation_config import with_checkpoint_sampling

QWEN = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
LLAMA = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


@pytest.fixture
def sampling(tmp_path):
    """A function: contents of the file (None: no file), names and settings -> the sampling that holds."""

    def read(contents, *names, **settings):
        if contents is not None:
            (tmp_path / "generation_config.json").write_text(
                contents if isinstance(contents, str) else json.dumps(contents)
            )
        config = EngineConfig(target=str(tmp_path), sampling=SamplingConfig(from_checkpoint=names, **settings))
        return with_checkpoint_sampling(config).sampling

    return read


def test_only_what_is_named_is_taken(sampling):
    """The published evaluation of RAPID sets temperature and top_p itself and leaves top_k to the checkpoint."""
    found = sampling(QWEN, "top_k", temperature=0.1)
    assert (found.temperature, found.top_k, found.top_p) == (0.1, 20, 1.0)
    found = sampling(QWEN, "temperature", "top_p", "top_k")
    assert (found.temperature, found.top_k, found.top_p) == (0.7, 20, 0.8)
    assert sampling(QWEN, top_k=3).top_k == 3


def test_what_the_file_leaves_out_is_the_default_of_transformers(sampling):
    """LLaMA-3.1 names no top_k, and transformers samples it with 50."""
    found = sampling(LLAMA, "top_k", "repetition_penalty", temperature=0.1)
    assert (found.temperature, found.top_k, found.top_p) == (0.1, 50, 1.0)
    assert sampling({"temperature": 0.6}, "temperature", temperature=1.0).temperature == 0.0


@pytest.mark.parametrize(
    ("contents", "names", "message"),
    [
        (QWEN, ("repetition_penalty",), "has repetition_penalty 1.05, and no repetition penalty is applied here"),
        (None, ("top_k",), "there is no .*generation_config.json"),
        ("[]", ("top_k",), "generation_config.json must hold a JSON object"),
        ("{", ("top_k",), "generation_config.json is not valid JSON"),
        ({"top_k": "many"}, ("top_k",), "generation_config.json: top_k must be a number, got 'many'"),
        ({"top_k": -1}, ("top_k",), "generation_config.json: top_k must be 0"),
        ({"top_p": 2}, ("top_p",), "generation_config.json: top_p must be in"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(sampling, contents, names, message):
    """A penalty that is ignored would make an answer of another model."""
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        sampling(contents, *names)
    assert "\n" not in str(error.value)


def test_an_engine_answers_with_them(tiny_checkpoint, tmp_path, document_text):
    """They reach the answer, whose settings say so."""
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({**LLAMA, "top_k": 7}))
    sampling = SamplingConfig(from_checkpoint=("top_k", "top_p"), temperature=0.5, max_new_tokens=4)
    engine = Engine.load(config=EngineConfig(target=str(tmp_path / "model"), prefill_chunk=256, sampling=sampling))
    settings = engine.read(document_text).ask("Who keeps the kettle?", "lc").settings
    assert (settings["temperature"], settings["top_k"], settings["top_p"]) == (0.5, 7, 0.9)
