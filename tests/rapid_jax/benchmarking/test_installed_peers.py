"""Which other engines run beside ours, and one line for each that does not."""

import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path

import jax
import pytest

from rapid_jax.benchmarking import installed_peers as subject
from rapid_jax.benchmarking import llama_cpp, transformers


@pytest.fixture
def find(monkeypatch):
    """A function: what is installed, how checkpoints are read -> what `installed_peers` finds, without loading any."""

    def finder(
        *, packages=("torch", "llama_cpp"), version="5.24.1", gguf="model.gguf", drafter="hf", rows=(8, 8), mesh=None
    ):
        sources = {
            "target": types.SimpleNamespace(
                for_transformers=lambda: {"path": "target"}, for_llama_cpp=lambda: gguf and Path(gguf)
            ),
            "drafter": types.SimpleNamespace(for_transformers=lambda: {"path": "drafter"} if drafter == "hf" else None),
        }
        versions = {"transformers": version, "torch": "2.13.0", "llama-cpp-python": "0.3.36"}
        monkeypatch.setattr(subject, "open_source", sources.__getitem__)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
        monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
        monkeypatch.setattr(transformers, "Transformers", lambda *args, **kwargs: ("transformers", *args[3:], kwargs))
        monkeypatch.setattr(llama_cpp, "LlamaCpp", lambda path, room: ("llama.cpp", path, room))

        def model(path, size):
            decoder = types.SimpleNamespace(dtype=types.SimpleNamespace(name="float32"))
            return types.SimpleNamespace(path=path, decoder=decoder, config=types.SimpleNamespace(vocab_size=size))

        engine = types.SimpleNamespace(
            target=model("target", rows[0]),
            drafter=model("drafter", rows[1]),
            session=types.SimpleNamespace(mesh=mesh),
            config=types.SimpleNamespace(sampling=types.SimpleNamespace(max_new_tokens=64)),
        )
        return engine, subject.installed_peers(engine, 1000)

    return finder


def test_all_that_is_installed_runs(find):
    """llama.cpp's cache must hold the longest document, a question and the answer."""
    engine, found = find()
    (name, assistant, options), llama = found.peers
    assert name == "transformers" and options == {"lookup": True}
    assert assistant.source == {"path": "drafter"} and assistant.model is engine.drafter
    assert llama == ("llama.cpp", Path("model.gguf"), 1000 + subject.QUESTION_RESERVE + 64)
    assert found.missing == [] and found.versions == {"torch": "2.13.0", "llama-cpp-python": "0.3.36"}


@pytest.mark.parametrize(
    "settings, lines",
    [
        (dict(packages=()), ["transformers: torch is not installed", "llama.cpp: llama-cpp-python is not installed"]),
        (dict(gguf=None), ["llama.cpp: the target is no GGUF file"]),
        (
            dict(mesh="a mesh"),
            [
                "transformers: transformers is run on one device only",
                "llama.cpp: it is run beside a single CPU device only",
            ],
        ),
    ],
)
def test_an_engine_that_is_not_run_is_said_in_a_line(find, settings, lines):
    _, found = find(**settings)
    assert found.missing == [f"no rows of {line}" for line in lines]
    assert len(found.peers) == len(found.versions) == 2 - len(lines)


@pytest.mark.parametrize(
    "settings, line, lookup",
    [
        (dict(version="5.3.0"), "no rows hf-pld and hf-assisted: transformers 5.3.0 is too old, 5.24 is needed", False),
        (dict(drafter="orbax"), "no row hf-assisted: transformers does not read the drafter's checkpoint", True),
        (dict(rows=(8, 16)), "the drafter's embedding has another number of rows than the target's", True),
    ],
)
def test_what_cannot_assist_leaves_its_row_out(find, settings, line, lookup):
    """Older versions read the prompt again behind its own cache: wrong tokens, or a crash."""
    _, found = find(**settings)
    assert len(found.missing) == 1 and line in found.missing[0]
    assert found.peers[0] == ("transformers", None, {"lookup": lookup})


def test_torch_without_the_device_is_no_peer(find, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    _, found = find()
    assert found.missing == [
        "no rows of transformers: torch has no tpu",
        "no rows of llama.cpp: it is run beside a single CPU device only",
    ]
