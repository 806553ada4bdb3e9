"""From a document and a question to the context that the drafter reads."""

import pytest

from rapid_jax import retrieval


def count_words(text: str) -> int:
    return len(text.split())


def make_document(paragraphs: int = 40, words: int = 30) -> str:
    """Paragraph i speaks of `topic{i}`; a chunk of 32 words holds one paragraph."""
    return "\n\n".join(f"About topic{i}x: " + f"filler{i % 7} " * (words - 3) + "end." for i in range(paragraphs))


def make_index(document: str, **settings) -> retrieval.IndexedDocument:
    config = retrieval.RetrievalConfig(**{"chunk_tokens": 32, **settings})
    return retrieval.Retriever(count_words, retrieval.make_embedder(config.embedder), config).index(document)


@pytest.mark.parametrize(
    ("tokens", "chunks"),
    [(1, 1), (512, 1), (513, 2), (2048, 4), (4096, 8), (32_768, 8), (98_304, 8), (120_000, 10), (131_072, 11)],
)
def test_length_rule(tokens, chunks):
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


def test_no_chunks_are_refused():
    with pytest.raises(ValueError, match="max_chunks is 0"):
        make_index(make_document()).retrieve("topic3x", max_chunks=0)


@pytest.mark.parametrize(
    "settings",
    [{"chunk_tokens": 0}, {"chunk_tokens": 15}, {"chunk_tokens": 64.5}, {"threshold": 1.5}, {"max_chunks": 0}],
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))) as caught:
        retrieval.RetrievalConfig(**settings)
    assert "\n" not in str(caught.value)
