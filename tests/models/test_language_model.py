"""models.load: from a directory or a hub name to logits and a tokenizer."""

from __future__ import annotations

import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest

import models
from models import hub
from models.checkpoint import save_orbax
from models.encoder import load_encoder
from tests.golden.decoders import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint("llama2", directory)
    return models.load(directory)


def test_logits_of_one_token_and_of_lists(model):
    """A notebook user would have to build arrays of a special shape or dtype first."""
    logits = model.logits([[5]])
    assert (logits.shape, logits.dtype) == ((1, 1, 96), np.float32)
    np.testing.assert_array_equal(logits, model.logits(np.array([[5]], np.int64)))


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1, 2], r"token_ids must be \[rows, tokens\] with at least one of each, got shape \(2,\)"),
        ([[]], r"got shape \(1, 0\)"),
        ([[1.5]], "token_ids must be integers, got float64"),
        ([[1, 96]], "token id 96 is outside the vocabulary of 96"),
        ([[-1, 3]], "token id -1 is outside the vocabulary of 96"),
    ],
)
def test_bad_token_ids(model, ids, message):
    """An id beyond the vocabulary would give NaN logits."""
    with pytest.raises(ValueError, match=message):
        model.logits(ids)


def test_no_tokenizer_is_an_error_only_when_asked_for(model):
    """A checkpoint of weights alone could not be used for logits."""
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        model.tokenizer.encode("text")


def test_orbax_directory_loads_like_any_other(model, tmp_path):
    """A converted checkpoint would need another call, and would have lost its tokenizer."""
    (model.path / "tokenizer_config.json").write_text("{}")
    (model.path / "generation_config.json").write_text("{}")
    save_orbax(tmp_path / "converted", model.params, model.config, tokenizer_from=model.path)
    (model.path / "tokenizer_config.json").unlink()
    assert (tmp_path / "converted" / "tokenizer_config.json").is_file()
    assert (tmp_path / "converted" / "generation_config.json").is_file()
    again = models.load(tmp_path / "converted")
    np.testing.assert_array_equal(again.logits([[3, 4]]), model.logits([[3, 4]]))


def test_random_weights_do_not_depend_on_the_mesh():
    """A benchmark on random weights would not be repeatable on other hardware."""
    from models.registry import config_from_hf
    from models.sharding import make_mesh
    from tests.golden.make_models import VARIANTS

    config = config_from_hf({**VARIANTS["qwen3"], "num_hidden_layers": 1})
    one = models.init_params(config, seed=7)
    split = models.init_params(config, seed=7, mesh=make_mesh((1, 2, 2)))
    np.testing.assert_allclose(one["embed"]["weight"], np.asarray(split["embed"]["weight"]), rtol=1e-6)
    assert split["embed"]["weight"].addressable_shards[0].data.shape == (48, 16)


def test_a_path_that_exists_is_never_looked_up(tmp_path, monkeypatch):
    """A local directory named like a hub repository would be downloaded over."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("went to the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen2.5-7B").mkdir(parents=True)
    assert hub.resolve("Qwen/Qwen2.5-7B").is_dir()


def test_hub_name(tmp_path, monkeypatch):
    """A hub name would fetch torch weights as well, doubling the download."""
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kwargs: asked.update(name=name, **kwargs) or tmp_path
    )
    assert hub.resolve("Qwen/Qwen2.5-7B") == tmp_path
    assert asked["name"] == "Qwen/Qwen2.5-7B"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_an_encoder_is_found_by_the_same_names(monkeypatch, tmp_path):
    """An encoder of the hub would have to be downloaded by hand."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no encoder at BAAI/bge-m3: give a directory"):
        load_encoder("BAAI/bge-m3")
    (tmp_path / "BAAI" / "bge-m3").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="bge-m3/config.json is missing"):
        load_encoder("BAAI/bge-m3")


def test_unreachable_hub(monkeypatch):
    """Without a network, or with a misspelt name, a user would see fifty lines of HTTP traceback."""

    def fail(*_, **__):
        raise ConnectionError("cannot\nconnect")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError) as caught:
        models.load("nobody/nothing")
    assert str(caught.value) == (
        "nobody/nothing is neither a directory nor reachable on the Hugging Face hub: ConnectionError: cannot connect"
    )


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "a/b/c", "~/nowhere", ""])
def test_misspelt_local_path_does_not_go_to_the_hub(path, monkeypatch):
    """A typing error in a path would wait for the network first."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("went to the hub"))
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        models.load(path)
    assert "\n" not in str(caught.value)


def test_file_in_the_place_of_a_directory(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a file; give the directory that holds config.json"):
        models.load(tmp_path / "model.safetensors")


def test_public_names():
    """`from models import X` of a documented name would fail."""
    assert all(getattr(models, name) is not None for name in models.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        models.nothing  # noqa: B018


def test_nothing_of_torch_is_needed(tmp_path):
    """Installing without torch, as the README says, would fail at loading."""
    write_checkpoint("qwen3", tmp_path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from models.checkpoint import load_params, read_config\n"
        f"path = {str(tmp_path)!r}\n"
        "print(len(load_params(path, read_config(path))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "5", done.stderr
