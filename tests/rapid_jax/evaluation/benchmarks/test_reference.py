"""Prompts about the language reference: real text, and answers at all depths."""

from pydoc_data.topics import topics

from rapid_jax.evaluation.benchmarks.reference import KINDS, MOST, QUESTIONS, SHORTEST, ReferenceBenchmark


def tokens(text):
    """Four characters each, which is what a vocabulary of 49,152 needs for this text."""
    return len(text) // 4


def test_every_document_has_a_prompt_of_each_kind_about_a_section_that_it_holds():
    sources = list(ReferenceBenchmark(2000, tokens).sources())
    assert [source.id for source in sources] == list(QUESTIONS) and MOST == 12
    depths = []
    for source in sources:
        assert 1700 < tokens(source.text) <= 2000
        assert tuple(item.task for item in source.items) == KINDS
        for item in source.items:
            assert source.text[item.reference["start"] : item.reference["end"]] == topics[source.id]
        quote, ask, summarise = (item.question for item in source.items)
        title = topics[source.id].splitlines()[0]
        assert title in quote and title in summarise and ask == QUESTIONS[source.id]
        depths.append(item.reference["start"] / len(source.text))
    assert min(depths) == 0 and max(depths) > 0.6


def test_every_section_fits_the_shortest_document():
    for section in QUESTIONS:
        assert tokens(topics[section]) < SHORTEST - 100, section


def test_another_length_is_another_benchmark():
    assert ReferenceBenchmark(2000, tokens).fingerprint != ReferenceBenchmark(3000, tokens).fingerprint
    assert ReferenceBenchmark(2000, tokens).fingerprint == ReferenceBenchmark(2000, tokens).fingerprint
