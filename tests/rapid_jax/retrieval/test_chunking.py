"""Chunks of a document: offsets, token budget, losslessness, speed."""

import random
import time

import pytest
import tokenizers
import transformers

from rapid_jax.retrieval import chunking

VOCABULARY = "the harbour keeper carried a lantern across old bridges and sold salt to quiet travellers of Nord"
WORDS = VOCABULARY.split()


def make_document(sentences: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    out = []
    for i in range(sentences):
        out.append(" ".join(rng.choices(WORDS, k=rng.randint(4, 18))).capitalize() + ".")
        out.append("\n\n" if i % 5 == 4 else " ")
    return "".join(out)


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE like LLaMA-3's, small."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([make_document(200)], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe)


DOCUMENTS = {
    "prose": make_document(400),
    "one line": make_document(400).replace("\n\n", " "),
    "no sentence ends": make_document(400).replace("\n\n", " ").replace(".", ""),
    "one word": "abcde" * 4000,
    "only spaces": " " * 30000,
    "unbroken Chinese": "知识图谱检索" * 1500,
    "accents and emoji": "naïve café 👩‍👩‍👧‍👦 Ærøskøbing 🇩🇰 " * 300,
    "windows line ends": make_document(100).replace("\n", "\r\n"),
    "surrounding blank lines": "\n\n\n" + make_document(50) + "\n\n\n",
    "one character": "a",
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("max_tokens", [32, 512])
def test_chunks_tile_the_document_within_the_budget(tokenizer, name, max_tokens):
    """Text would be lost to retrieval, or a passage would overflow the drafter's context."""
    document = DOCUMENTS[name]
    chunks = chunking.split(document, tokenizer, max_tokens)
    assert "".join(chunk.text for chunk in chunks) == document
    assert [chunk.start for chunk in chunks] == [0] + [chunk.end for chunk in chunks[:-1]]
    for chunk in chunks:
        assert document[chunk.start : chunk.end] == chunk.text
        assert chunk.num_tokens == len(tokenizer.encode(chunk.text, add_special_tokens=False))
        assert 0 < chunk.num_tokens <= max_tokens


@pytest.mark.parametrize("surrogate", ["\ud800", "\udfff", "\ud83d \ude00"])
def test_lone_surrogates_become_replacement_characters(tokenizer, surrogate):
    """Files read with errors="surrogateescape" and JSON escapes bring them; no tokenizer reads one."""
    document = f"The keeper {surrogate} sold salt."
    (chunk,) = chunking.split(document, tokenizer)
    assert chunk.text == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in document)
    assert (chunk.start, chunk.end) == (0, len(document))
    assert chunking.Chunker(tokenizer).count_tokens(document) == chunk.num_tokens


@pytest.mark.parametrize("document", ["\ufeff", "?!", "\U0001f600" * 300, " .\n\n. ", "\u200b"])
def test_documents_without_a_word_are_chunked(tokenizer, document):
    assert "".join(chunk.text for chunk in chunking.split(document, tokenizer, 16)) == document


def test_a_short_document_is_one_chunk(tokenizer):
    document = "A short note.\n\nOf two paragraphs."
    assert [chunk.text for chunk in chunking.split(document, tokenizer)] == [document]


def test_an_empty_document_has_no_chunks(tokenizer):
    assert chunking.split("", tokenizer) == []


def test_chunks_end_at_sentence_ends_where_they_fit(tokenizer):
    """A fact cut in two would be found by neither half."""
    for chunk in chunking.split(DOCUMENTS["prose"], tokenizer, 200):
        assert chunk.text.rstrip().endswith(".")


def test_chunks_fill_the_budget(tokenizer):
    """Chunks far below the budget would give the drafter far less context than the number of chunks means."""
    chunks = chunking.split(DOCUMENTS["one line"], tokenizer, 512)
    assert min(chunk.num_tokens for chunk in chunks[:-1]) > 0.8 * 512


def test_windows_do_not_change_the_chunks(tokenizer):
    """A long document must be split as the splitter would split it in one piece."""
    chunker = chunking.Chunker(tokenizer, 64)
    whole = chunker._splitter.chunks(DOCUMENTS["prose"])
    assert len(DOCUMENTS["prose"]) > 4 * chunker._window
    assert [chunk.text for chunk in chunker.split(DOCUMENTS["prose"])] == whole


def test_a_counting_function_will_do():
    """Tokenizers that transformers does not know can be used as a plain function."""
    chunks = chunking.split(DOCUMENTS["prose"], lambda text: len(text.split()), 50)
    assert "".join(chunk.text for chunk in chunks) == DOCUMENTS["prose"]
    assert max(chunk.num_tokens for chunk in chunks) <= 50


def test_truncation_left_on_by_an_earlier_call_is_ignored(tokenizer):
    """Otherwise every text counts as at most the truncation limit and the whole document becomes one chunk."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(16)
    backend.enable_padding(length=16)
    expected = chunking.split(DOCUMENTS["prose"], tokenizer, 64)
    assert chunking.split(DOCUMENTS["prose"], backend, 64) == expected
    assert backend.truncation is not None, "the caller's tokenizer must stay as it was"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prose", "one word", "unbroken Chinese"])
def test_a_document_of_128k_tokens_takes_seconds(tokenizer, name):
    document = DOCUMENTS[name]
    while len(tokenizer.encode(document)) < 131_072:
        document += document
    start = time.perf_counter()
    chunking.split(document, tokenizer)
    assert time.perf_counter() - start < 20.0
