"""llama.cpp beside our methods: its rows must be the same work as ours, on the same weights and the same tokens."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import models
from rapid_jax.benchmarking.llama_cpp import LlamaCpp
from tests.models import gguf_made

NEW, ROOM = 12, 512
VOCABULARY = 264
DOCUMENT = np.random.default_rng(0).integers(3, 260, 200).tolist()
QUESTION = [5, 9, 7, 30]

installed = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason='llama.cpp is not installed: pip install "rapid_jax[llama-cpp]"',
)


@pytest.fixture(scope="module")
def checkpoint(make_tiny_checkpoint):
    return make_tiny_checkpoint(scale=6.0)


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    """A file of Q8_0; llama.cpp wants to be told that there is no tokenizer, and the size of a head twice."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    about = {"general__file_type": 7, "llama__vocab_size": VOCABULARY, "tokenizer__ggml__model": "no_vocab"}
    about["llama__attention__value_length"] = 8
    gguf_made.write(path, checkpoint, kind="Q8_0", **about)
    return path


@pytest.fixture(scope="module")
def target(checkpoint, tmp_path_factory):
    """The same weights in our decoder, which wants to be told nothing."""
    path = tmp_path_factory.mktemp("gguf") / "ours.gguf"
    gguf_made.write(path, checkpoint, kind="Q8_0")
    return models.load(path, dtype="float32")


class FakeLlama:
    """Follows every prefix by a token that depends on all of it; what lies behind n_tokens is cut off by `eval`."""

    made: list["FakeLlama"]

    def __init__(self, path, **settings):
        assert Path(path).is_file()
        self.path, self.settings, self.cache, self.n_tokens, self.evaluated = Path(path), settings, [], 0, []
        self.ctx = self
        self.made.append(self)

    def reset(self):
        self.n_tokens = 0

    def n_vocab(self):
        return VOCABULARY

    def eval(self, tokens):
        self.evaluated.append(len(tokens))
        self.cache[self.n_tokens :] = tokens
        self.n_tokens += len(tokens)
        if self.n_tokens > self.settings["n_ctx"]:
            raise RuntimeError("llama_decode returned 1")

    def logits(self):
        logits = np.zeros(VOCABULARY, np.float32)
        logits[following(self.cache)] = 1
        return logits


def following(tokens):
    return sum((i + 1) * token for i, token in enumerate(tokens)) % VOCABULARY


@pytest.fixture
def fake(monkeypatch):
    """llama_cpp replaced; gives the class, whose `made` lists what was loaded."""
    monkeypatch.setattr(FakeLlama, "made", [], raising=False)
    module = types.SimpleNamespace(
        Llama=FakeLlama,
        GGML_TYPE_F32=0,
        llama_synchronize=lambda context: None,
        llama_get_logits_ith=lambda context, row: context.logits(),
    )
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return FakeLlama


def test_the_file_and_two_dequantised_ones_are_loaded(fake, file):
    """With a thread for each processor; the made files are gone as soon as they are loaded."""
    peer = LlamaCpp(file, ROOM)
    assert peer.names(1) == ("llama.cpp q8_0", "llama.cpp f32", "llama.cpp bf16") and peer.names(2) == ()
    assert [llama.path.name for llama in fake.made] == ["tiny.gguf", "f32.gguf", "bf16.gguf"]
    assert [llama.path.exists() for llama in fake.made] == [True, False, False]
    assert [{k: v for k, v in llama.settings.items() if k.startswith("type")} for llama in fake.made] == [
        {},
        {"type_k": 0, "type_v": 0},
        {},
    ]
    for llama in fake.made:
        assert llama.settings["n_ctx"] == ROOM
        assert llama.settings["n_threads"] == llama.settings["n_threads_batch"] == os.cpu_count()


def test_a_file_of_f32_is_not_written_once_more(fake, make_tiny_checkpoint, tmp_path):
    gguf_made.write(tmp_path / "tiny.gguf", make_tiny_checkpoint(), kind="F32", general__file_type=0)
    assert LlamaCpp(tmp_path / "tiny.gguf", ROOM).names(1) == ("llama.cpp f32", "llama.cpp bf16")


def test_every_run_goes_on_from_the_document(fake, file, target):
    """What an earlier run left in the cache must not be read; every new token is one forward of one token."""
    peer = LlamaCpp(file, ROOM)
    peer.read(DOCUMENT[:50], 64)
    document = peer.read(DOCUMENT, 64)
    expected = [*DOCUMENT, *QUESTION]
    for _ in range(NEW):
        expected.append(following(expected))
    for contestant in peer.contestants(document, target, [QUESTION], NEW):
        for _ in range(2):
            llama = contestant.model.llama
            llama.evaluated.clear()
            sample = contestant.run()
            assert sample.tokens == [expected[-NEW:]] and sample.steps == [NEW]
            assert llama.evaluated == [len(QUESTION) - 1] + [1] * NEW
            assert sample.prefill_seconds > contestant.document_seconds > 0 and sample.decode_seconds > 0
            assert sample.proposed is sample.tested is sample.accepted is None and sample.drafter_forwards == ()


def test_a_question_of_one_token_needs_no_prefill(fake, file, target):
    peer = LlamaCpp(file, ROOM)
    document = peer.read(DOCUMENT, 64)
    for contestant in peer.contestants(document, target, [QUESTION], NEW):
        contestant.run()
    (first, *_) = peer.contestants(document, target, [[5]], 1)
    assert first.run().tokens == [[following([*DOCUMENT, 5])]]


def test_several_rows_are_not_taken(fake, file, target):
    peer = LlamaCpp(file, ROOM)
    assert peer.contestants(peer.read(DOCUMENT, 64), target, [QUESTION, QUESTION], NEW) == []


def test_bytes_of_a_step_are_those_computed_by_hand(fake, file, target):
    """Weights of each file, and keys and values in float32 where the weights are, else in float16."""
    peer = LlamaCpp(file, ROOM)
    found = [c.bytes_per_step(0.0) for c in peer.contestants(peer.read(DOCUMENT, 64), target, [QUESTION], NEW)]
    matrices = VOCABULARY * 32 + 2 * (32 * (64 + 32 + 32 + 64) + 3 * 32 * 64)
    vectors = 4 * (2 * 2 * 32 + 32)
    numbers = 2 * 2 * 4 * 8 * (200 + 4 + NEW // 2)  # keys and values, layers, heads, head_dim, tokens
    assert found == [
        matrices * 34 // 32 + vectors + 2 * numbers,
        matrices * 4 + vectors + 4 * numbers,
        matrices * 2 + vectors + 2 * numbers,
    ]


def test_what_does_not_fit_or_load_is_one_line(fake, file, target, monkeypatch):
    peer = LlamaCpp(file, 210)
    document = peer.read(DOCUMENT, 64)
    with pytest.raises(ValueError, match="216 tokens are more than llama.cpp was given room for, 210"):
        peer.contestants(document, target, [QUESTION], NEW)
    with pytest.raises(ValueError, match="llama.cpp: llama_decode returned 1; --nopeers leaves it out"):
        peer.read([3] * 211, 64)

    def refuse(*_, **__):
        raise ValueError("Failed to load model\nfrom file")

    monkeypatch.setattr(FakeLlama, "__init__", refuse)
    with pytest.raises(
        ValueError, match=r"llama.cpp cannot load .*tiny.gguf \(Failed to load model from file\); --nop"
    ):
        LlamaCpp(file, ROOM)


@installed
def test_greedy_tokens_are_those_of_our_own_forwards(file, target):
    """Of the dequantised file in float32 all; the others round in their own ways."""
    peer = LlamaCpp(file, ROOM)
    document = peer.read(DOCUMENT, 64)
    tokens = [*DOCUMENT, *QUESTION]
    for _ in range(NEW):
        tokens.append(int(np.argmax(target.logits([tokens])[0, -1])))
    for contestant in peer.contestants(document, target, [QUESTION], NEW):
        samples = [contestant.run() for _ in range(2)]
        assert samples[0].tokens == samples[1].tokens and len(samples[0].tokens[0]) == NEW
        if contestant.name == "llama.cpp f32":
            assert samples[0].tokens == [tokens[-NEW:]]


@installed
def test_a_file_that_llama_cpp_cannot_load_is_one_line(make_tiny_checkpoint, tmp_path):
    """One without any word about a tokenizer."""
    gguf_made.write(tmp_path / "tiny.gguf", make_tiny_checkpoint(), kind="F32", general__file_type=0)
    with pytest.raises(ValueError, match="llama.cpp cannot load .*tiny.gguf"):
        LlamaCpp(tmp_path / "tiny.gguf", ROOM)
