"""From a document and a question to the context that the drafter reads."""

import numpy as np
import pytest

from rapid_jax import retrieval


def count_words(text: str) -> int:
    return len(text.split())


def make_document(paragraphs: int = 40, words: int = 30) -> str:
    """Paragraph i speaks of `topic{i}`; a chunk of 32 words holds one paragraph."""
    return "\n\n".join(f"About topic{i}x: " + f"filler{i % 7} " * (words - 3) + "end." for i in range(paragraphs))


def make_index(document: str, **settings) -> retrieval.IndexedDocument:
    config = retrieval.RetrievalConfig(**{"chunk_tokens": 32, **settings})
    return retrieval.Retriever(count_words, retrieval.make_embedder(config), config).index(document)


@pytest.mark.parametrize(
    ("tokens", "chunks"),
    [(0, 1), (1, 1), (512, 1), (513, 2), (2048, 4), (4096, 8), (32_768, 8), (98_304, 8), (120_000, 10), (131_072, 11)],
)
def test_the_number_of_chunks_follows_the_documents_length(tokens, chunks):
    """The paper's 10 chunks at 120K tokens; never more than the document has."""
    assert retrieval.num_chunks(tokens) == chunks


def test_passages_come_in_document_order_with_their_offsets_and_scores():
    """The answer shows what the drafter read; a shuffled story misleads it."""
    document = make_document()
    found = make_index(document, max_chunks=3).retrieve("topic30x topic4x topic17x")
    assert [p.text.split()[1] for p in found.passages] == ["topic4x:", "topic17x:", "topic30x:"]
    for passage in found.passages:
        assert document[passage.start : passage.end] == passage.text
        assert passage.num_tokens == count_words(passage.text)
        assert 0 < passage.score <= 1
    assert not found.below_threshold
    assert found.num_tokens == count_words(found.text) == sum(p.num_tokens for p in found.passages)


def test_neighbours_join_seamlessly_and_others_with_a_blank_line():
    document = make_document()
    found = make_index(document, max_chunks=3).retrieve("topic20x topic4x topic5x")
    first, second, third = found.passages
    assert (first.end, second.end < third.start) == (second.start, True)
    assert found.text == document[first.start : second.end].rstrip() + "\n\n" + third.text.lstrip()


def test_one_chunk_is_kept_when_nothing_passes_the_threshold():
    """An empty context would leave the drafter without a document; it is said instead."""
    found = make_index(make_document()).retrieve("zzyzx quandary?")
    assert found.below_threshold
    assert len(found.passages) == 1
    assert found.text == found.passages[0].text


def test_nothing_is_kept_below_the_threshold_if_so_set():
    """As in the published evaluation, where the drafter then sees the question alone."""
    found = make_index(make_document(), below_threshold="empty").retrieve("zzyzx quandary?")
    assert (found.text, found.passages, found.below_threshold, found.num_tokens) == ("", (), True, 0)
    found = make_index(make_document(), below_threshold="empty").retrieve("topic9x")
    assert len(found.passages) >= 1 and not found.below_threshold


class FixedEmbedder:
    """Chunks with cosines of exactly 1, 0.5 and 0 with every question."""

    settings = {}
    default_threshold = 0.5
    vectors = np.eye(3, dtype=np.float32)

    def embed_chunks(self, chunks, vectors=None):
        assert len(chunks) == 3
        return self

    def embed_query(self, question):
        return np.array([0.0, 0.5, 1.0], np.float32)


@pytest.mark.parametrize(("threshold", "kept"), [(None, 2), (0.5, 2), (0.5000001, 1), (0.0, 3), (1.0, 1)])
@pytest.mark.parametrize("below_threshold", ["best", "empty"])
def test_a_chunk_at_the_threshold_is_kept(threshold, kept, below_threshold):
    """The threshold is the lowest cosine that is kept, not the highest that is dropped."""
    config = retrieval.RetrievalConfig(chunk_tokens=32, threshold=threshold, below_threshold=below_threshold)
    found = retrieval.Retriever(count_words, FixedEmbedder(), config).index(make_document(3)).retrieve("Which?")
    assert len(found.passages) == kept
    assert not found.below_threshold


@pytest.mark.parametrize(
    ("count_from", "truncated", "kept"),
    [("retrieved", 300, 38), ("truncated", 300, 10), ("truncated", None, 38), ("truncated", 99_999, 38)],
)
def test_the_number_of_chunks_can_be_that_of_the_truncated_document(count_from, truncated, kept):
    """The published evaluation retrieves from the whole document as many chunks as the truncated one calls for."""
    config = retrieval.RetrievalConfig(chunk_tokens=32, threshold=-1.0, count_from=count_from, from_truncated=False)
    retriever = retrieval.Retriever(count_words, retrieval.make_embedder(config), config)
    index = retriever.index(make_document(40), truncated_tokens=truncated)
    assert index.settings["max_chunks"] == len(index.retrieve("topic3x").passages) == kept


def test_what_was_in_force_is_recorded():
    """A run is repeated from its settings, so that None must not stand in them."""
    settings = make_index(make_document(40)).settings
    assert (settings["threshold"], settings["max_chunks"], settings["embedder"]) == (0.006, 38, "hashing")
    assert make_index(make_document(), threshold=0.25, max_chunks=3).settings["threshold"] == 0.25


WORDLESS = ["...!?", "\U0001f600\U0001f680\n\n\U0001f600", "\ufeff", " . \n\n ; ", "\ud800"]


@pytest.mark.parametrize("document", WORDLESS)
def test_a_document_without_a_word_gives_its_best_chunk(document):
    """Punctuation, emoji or a byte order mark is a document too; nothing in it is related to the question."""
    found = make_index(document).retrieve("Who wrote this?")
    assert found.below_threshold and len(found.passages) == 1
    assert found.text == document.replace("\ud800", "\ufffd")


@pytest.mark.parametrize("question", ["?", "\U0001f600", "\ufeff", "\ud800", "…"])
def test_a_question_without_a_word_is_below_the_threshold(question):
    found = make_index(make_document()).retrieve(question)
    assert found.below_threshold and len(found.passages) == 1


def test_chinese_is_retrieved():
    """Chinese has no spaces between words."""
    document = "\n\n".join(["河水很高，田地被淹。" * 3, "钥匙在守门人的房子里。" * 3, "市场很早就关门了。" * 3])
    config = retrieval.RetrievalConfig(chunk_tokens=40, max_chunks=1)
    found = (
        retrieval.Retriever(len, retrieval.make_embedder(config), config)
        .index(document)
        .retrieve("钥匙在守门人的房子里")
    )
    assert "钥匙" in found.text and not found.below_threshold


@pytest.mark.parametrize("wrong", [None, 3, b"text", ["text"]])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(ValueError, match="the document must be a text, got"):
        make_index(wrong)
    with pytest.raises(ValueError, match="the question must be a text, got"):
        make_index(make_document()).retrieve(wrong)


@pytest.mark.parametrize(("threshold", "kept"), [(0.1, 1), (-1.0, 8), (0.999, 1)])
def test_the_threshold_decides_what_is_kept(threshold, kept):
    found = make_index(make_document(), threshold=threshold, max_chunks=8).retrieve("topic9x")
    assert len(found.passages) == kept
    assert found.below_threshold == (threshold == 0.999)
    assert "topic9x" in found.text


def test_a_document_shorter_than_a_chunk_is_retrieved_whole():
    document = "Mirel kept the key.\n"
    found = make_index(document, chunk_tokens=512).retrieve("Who kept the key?")
    assert found.text == document
    assert [(p.start, p.end) for p in found.passages] == [(0, len(document))]


def test_a_whole_document_within_the_rule_joins_to_itself():
    """Retrieval of everything must give the drafter the target's own prompt."""
    document = "\n\n" + make_document(6) + "\n"
    assert make_index(document, threshold=-1.0).retrieve("topic3x").text == document


def test_a_call_may_ask_for_fewer_chunks():
    index = make_index(make_document(), threshold=-1.0, max_chunks=8)
    assert len(index.retrieve("topic3x", max_chunks=2).passages) == 2
    assert len(index.retrieve("topic3x", max_chunks=1000).passages) == len(index.chunks)


@pytest.mark.parametrize("document", ["", " \n\n "])
def test_an_empty_document_is_refused(document):
    with pytest.raises(ValueError, match="the document is empty"):
        make_index(document)


def test_an_empty_question_is_refused():
    with pytest.raises(ValueError, match="the question is empty"):
        make_index(make_document()).retrieve("  ")


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0, "3", float("nan")])
def test_a_number_of_chunks_below_one_is_refused(wrong):
    with pytest.raises(ValueError, match=f"max_chunks is {wrong!r}: it must be a whole number of at least 1"):
        make_index(make_document()).retrieve("topic3x", max_chunks=wrong)


BAD = {
    "embedder": [None, 3, b"hashing", "encoder:\n"],
    "query_prompt": [3, b"query: ", True, "x" * 10_001, "query: "],
    "passage_prompt": [3, ["passage: "], "passage: "],
    "chunk_tokens": [0, 15, 64.5, 512.0, True, "512", None, float("nan"), 2**20 + 1, 10**18, -(10**18)],
    "threshold": [1.5, -1.01, float("nan"), float("inf"), True, "0.3", 10**400],
    "below_threshold": ["none", "", None, True, ["best"]],
    "max_chunks": [0, -1, True, 2.0, "4", float("inf"), 2**20 + 1, 10**18],
    "from_truncated": [0, 1, "true", None],
    "count_from": ["whole", None, 1, {"truncated"}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD.items() for value in values],
    ids=lambda value: repr(value)[:20],
)
def test_bad_settings_are_refused_by_name(name, value):
    """Before a document is read, in one short line: a huge number would hang or overflow the splitter."""
    with pytest.raises(ValueError, match=name) as caught:
        retrieval.RetrievalConfig(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "settings",
    [
        dict(chunk_tokens=16, threshold=-1, max_chunks=1, below_threshold="empty", count_from="truncated"),
        dict(chunk_tokens=2**20, threshold=1.0, max_chunks=2**20, from_truncated=False),
        dict(embedder="encoder:somewhere", query_prompt="query: ", passage_prompt=""),
        dict(query_prompt="", passage_prompt=""),
    ],
)
def test_settings_at_the_edge_are_taken(settings):
    config = retrieval.RetrievalConfig(**settings)
    assert all(getattr(config, name) == value for name, value in settings.items())


def test_the_longest_chunk_is_split_at_once():
    index = make_index(make_document(300), chunk_tokens=2**20, max_chunks=2**20)
    assert index.retrieve("topic3x").text == make_document(300)
