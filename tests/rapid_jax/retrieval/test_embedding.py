"""Embedders: the right chunk first, honest cosines, stable vectors."""

import random
import subprocess
import sys
import time
import types
import zlib

import numpy as np
import pytest

from rapid_jax.config import retrieval as config_lib
from rapid_jax.retrieval import embedding, thresholds
from rapid_jax.retrieval import index as index_lib

FIRST = "Mirel Sorin Talia Denu Varo Kesra Ilmen Pado Lurie Saben Toma Ferin Orla Nyssa".split()
LAST = "Tavos Tarvos Dorun Melik Kesten Varga Tolos Savik Renna Porel Mavos Tevis".split()
FACTS = (
    "{} lived in Kelm and worked there as a {}.",
    "It was in the year of the flood that {} sold a lantern to the {}.",
    "{} kept a silver key under the floor of the house of the {}.",
    "When the bells of Astrun rang, {} was walking with the {}.",
)
TRADES = "smith baker ferryman scribe weaver miller".split()
FILLER = (
    "The river ran high that spring and the fields lay under water for weeks.",
    "People talked about the price of salt, as they always did.",
    "A cold wind came down from the hills and the market closed early.",
    "Carts passed all night on the eastern road.",
)
NAME = "Mirel Tavos"


def make_chunks(count: int, target: int, seed: int = 0) -> list[str]:
    """Chunks of about 512 tokens about people whose names share their words with NAME, who is in `target` alone."""
    rng = random.Random(seed)
    others = [f"{first} {last}" for first in FIRST for last in LAST if f"{first} {last}" != NAME]
    chunks = []
    for i in range(count):
        sentences = [rng.choice(FACTS).format(rng.choice(others), rng.choice(TRADES)) for _ in range(12)]
        sentences += rng.choices(FILLER, k=16)
        if i == target:
            sentences.append(f"A red book was given to {NAME} by the old keeper.")
        rng.shuffle(sentences)
        chunks.append(" ".join(sentences))
    return chunks


def scores(chunks: list[str], question: str) -> np.ndarray:
    embedded = embedding.HashingEmbedder().embed_chunks(chunks)
    return embedded.vectors @ embedded.embed_query(question)


@pytest.mark.parametrize("count", [1, 4, 64, 300])
@pytest.mark.parametrize("question", ["What was given to {}?", "Tell everything that is known about {}.", "{}"])
def test_the_only_chunk_that_names_somebody_comes_first(count, question):
    """Otherwise the drafter reads about somebody else and its drafts are refused."""
    target = count * 2 // 3
    found = scores(make_chunks(count, target), question.format(NAME))
    assert found.argmax() == target
    assert found[target] >= embedding.HashedChunks.default_threshold


@pytest.mark.parametrize(
    "question",
    ["How do I reset my password on a Linux server?", "Which enzymes did Zubrin Gawkel study?", "?!", "..."],
)
def test_unrelated_questions_stay_below_the_threshold(question):
    """The answer could not say that the document has nothing on a question."""
    for count in (16, 64, 300):
        assert scores(make_chunks(count, 0), question).max() < embedding.HashedChunks.default_threshold


def test_inflected_words_are_found():
    chunks = ["The ferries crossed at dawn.", "She was weaving baskets.", "Nobody had seen the comet."]
    assert scores(chunks, "who weaves a basket").argmax() == 1


def test_case_does_not_matter():
    chunks = make_chunks(8, 3)
    np.testing.assert_array_equal(scores(chunks, NAME.upper()), scores(chunks, NAME.lower()))


def test_chunks_have_unit_norm():
    vectors = embedding.HashingEmbedder().embed_chunks([*make_chunks(8, 3), "???", ""]).vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1] * 8 + [0, 0], atol=0.1)
    assert np.isfinite(vectors).all()


def test_cosines_are_those_of_the_unhashed_features():
    """Collisions may only blur scores, not shift them."""
    chunks = make_chunks(30, 3)
    questions = ["What did Talia Dorun keep?", "Who walked in Astrun?", "the price of salt"]
    exact = embedding.HashingEmbedder(dim=2**18).embed_chunks(chunks)
    hashed = embedding.HashingEmbedder().embed_chunks(chunks)
    error = [hashed.vectors @ hashed.embed_query(q) - exact.vectors @ exact.embed_query(q) for q in questions]
    assert np.std(error) < 2 / np.sqrt(8192)
    assert abs(np.mean(error)) < 0.5 / np.sqrt(8192)


def test_vectors_are_the_same_in_another_process():
    """Python's hash() changes from process to process: a seed would no longer repeat an answer."""
    script = (
        "from rapid_jax.retrieval import embedding;"
        "print(embedding.HashingEmbedder().embed_chunks(['a b c', 'd e']).vectors.nonzero()[1].tolist())"
    )
    here = embedding.HashingEmbedder().embed_chunks(["a b c", "d e"]).vectors.nonzero()[1].tolist()
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)


@pytest.mark.slow
def test_300_chunks_take_about_a_second():
    chunks = make_chunks(300, 5)
    start = time.perf_counter()
    embedded = embedding.HashingEmbedder().embed_chunks(chunks)
    assert time.perf_counter() - start < 10.0
    start = time.perf_counter()
    embedded.embed_query(NAME)
    assert time.perf_counter() - start < 0.1


class CountingEncoder:
    """Stands for a sentence encoder whose vectors are not of unit norm; it keeps what it was asked to read."""

    def __init__(self, query_prompt="", passage_prompt="", **fields):
        self.config = types.SimpleNamespace(
            **{"model_type": "bert", **fields}, query_prompt=query_prompt, passage_prompt=passage_prompt
        )
        self.read = []

    def check_prompt(self, prompt):
        pass

    def encode(self, texts, prompt=""):
        self.read += [prompt + text for text in texts]
        return np.array([[text.count("a") + 1.0, text.count("b")] for text in texts], np.float32)


def test_encoder_vectors_are_scaled_to_unit_norm():
    """Inner products would favour long vectors, and the cosine threshold would mean nothing."""
    embedded = embedding.EncoderEmbedder(CountingEncoder()).embed_chunks(["bbb", "b", "abb"])
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(embedded.vectors @ embedded.embed_query("b"), [0.8944, 1.0, 1.0], atol=1e-3)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, ("query: ", "passage: ")),
        ({"query_prompt": "Q "}, ("Q ", "passage: ")),
        ({"passage_prompt": ""}, ("query: ", "")),
    ],
)
def test_questions_and_chunks_carry_the_encoders_prompts(given, used):
    """E5 and its like are trained with them and find worse passages without; a setting overrides each, "" is none."""
    encoder = CountingEncoder("query: ", "passage: ")
    embedder = embedding.EncoderEmbedder(encoder, **given)
    embedder.embed_chunks(["ab"]).embed_query("a?")
    assert encoder.read == [f"{used[1]}ab", f"{used[0]}a?"]
    assert embedder.settings == {"query_prompt": used[0], "passage_prompt": used[1]}


BGE_M3 = dict(
    model_type="xlm-roberta", hidden_size=1024, num_hidden_layers=24, max_position_embeddings=8194, pooling="cls"
)  # fmt: skip
MINILM = dict(hidden_size=384, num_hidden_layers=6, max_seq_length=256, pooling="mean", normalize=True)


@pytest.mark.parametrize(("fields", "threshold"), [(BGE_M3, 0.3), (MINILM, 0.2)], ids=["BGE-M3", "all-MiniLM-L6"])
def test_published_encoders_have_thresholds_of_their_own(fields, threshold):
    """MiniLM's cosines lie below BGE-M3's: under one threshold for both, its drafter would read a single passage."""
    encoder = CountingEncoder(**fields)
    assert embedding.EncoderEmbedder(encoder).embed_chunks(["a", "b"]).default_threshold == threshold
    assert len(encoder.read) == 2, "a known threshold needs no calibration"


class PlacedEncoder(CountingEncoder):
    """Unrelated texts have a cosine of `floor` or a little more, as E5's, and a text shares more with itself alone."""

    floor = 0.7

    def encode(self, texts, prompt=""):
        self.read += [prompt + text for text in texts]
        rng = [np.random.default_rng(zlib.crc32(text.encode())) for text in texts]
        own = np.stack([g.standard_normal(64) for g in rng])
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        shared = np.full((len(texts), 1), np.sqrt(self.floor))
        return np.concatenate([shared, own * np.sqrt(1 - self.floor)], axis=1).astype(np.float32)


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.7, 0.9])
def test_an_unknown_encoders_threshold_lies_above_its_unrelated_cosines(floor):
    """One number for all encoders keeps every chunk of one and none of another."""
    encoder = PlacedEncoder("query: ", "", hidden_size=65)
    encoder.floor = floor
    chunks = [f"chunk {i}" for i in range(50)]
    embedded = embedding.EncoderEmbedder(encoder).embed_chunks(chunks)
    unrelated = embedded.vectors @ embedded.embed_query("something else")
    assert 0 < np.mean(unrelated >= embedded.default_threshold) < 0.15
    assert embedded.vectors[7] @ embedded.embed_query("chunk 7") > embedded.default_threshold
    assert f"query: {thresholds.PROBES[0]}" in encoder.read, "calibrated with the prompt that questions carry"


def test_a_prompt_of_ones_own_is_calibrated_anew():
    """The table's numbers hold for the published prompts alone."""
    chunks = embedding.EncoderEmbedder(CountingEncoder(**MINILM), "Find: ").embed_chunks(["a", "b"])
    assert chunks.default_threshold != 0.2


WORDLESS = {"punctuation": "... !? --", "emoji": "\U0001f600\U0001f680", "a byte order mark": "\ufeff", "nothing": ""}


@pytest.mark.parametrize("name", WORDLESS)
def test_texts_without_a_word_have_zero_vectors(name):
    """A document of emoji or a lone "?" ends in an answer, not in a traceback."""
    embedded = embedding.HashingEmbedder().embed_chunks([WORDLESS[name]] * 2)
    assert embedded.vectors.shape == (2, 8192) and not embedded.vectors.any()
    assert not embedded.embed_query("Who wrote this?").any()
    assert not embedding.HashingEmbedder().embed_chunks(["some words"]).embed_query(WORDLESS[name]).any()


@pytest.mark.parametrize("spec", ["bm25", "encoder", "encoder:", "hashing:x", "", "encoder:a\nb", None, 3])
def test_unknown_embedders_are_refused(spec):
    with pytest.raises(ValueError, match="known are 'hashing' and 'encoder:<path"):
        config_lib.parse_embedder(spec)
    with pytest.raises(ValueError, match="embedder") as caught:
        config_lib.RetrievalConfig(embedder=spec)
    assert "\n" not in str(caught.value)


def test_embedders_by_name(tmp_path):
    make = embedding.make_embedder
    assert isinstance(make(config_lib.RetrievalConfig()), embedding.HashingEmbedder)
    with pytest.raises(FileNotFoundError, match="no encoder at"):
        make(config_lib.RetrievalConfig(embedder=f"encoder:{tmp_path / 'nowhere'}"))


def test_search_returns_the_best_first_and_never_more_than_there_are():
    index = index_lib.InnerProductIndex(np.eye(3, dtype=np.float32))
    found, indices = index.search(np.array([0.1, 0.9, 0.5], np.float32), 10)
    assert (indices.tolist(), len(index)) == ([1, 2, 0], 3)
    np.testing.assert_allclose(found, [0.9, 0.5, 0.1])
    assert index.search(np.array([0.1, 0.9, 0.5], np.float32), 1)[1].tolist() == [1]
