"""Prompts of three kinds about sections of the language reference."""

import dataclasses
from pydoc_data.topics import topics

import pytest

from rapid_jax.benchmarking.prompts import benchmark_config
from rapid_jax.benchmarking.reference_prompts import reference_prompts
from rapid_jax.engine.engine import Engine
from rapid_jax.evaluation.benchmarks.reference import KINDS, QUESTIONS

TOKENS = 3000  # of a byte each


@pytest.fixture(scope="module")
def asked(engine):
    """The engine, and what is asked about two documents."""
    config = benchmark_config(engine.config, new_tokens=8, gamma=3, retrieved_tokens=600)
    asking = Engine(dataclasses.replace(engine.session, config=config, passages={}))
    return asking, list(reference_prompts(asking, TOKENS, 2))


def test_three_kinds_are_asked_about_each_document(asked):
    """A document that is another list would be read three times."""
    engine, prompts = asked
    assert [one.kind for one in prompts] == [*KINDS, *KINDS]
    assert [one.document is prompts[3 * (i // 3)].document for i, one in enumerate(prompts)] == [True] * 6
    assert prompts[0].document is not prompts[3].document
    for one in prompts:
        assert one.drafter is one.target and len(one.target.questions) == len(one.target.passages) == 1
        assert 0.8 * TOKENS < len(one.document) <= TOKENS
        assert len(one.target.passages[0]) < len(one.document)


def test_the_section_is_in_the_document_and_its_name_or_question_in_the_prompt(asked):
    engine, prompts = asked
    decode = engine.target.tokenizer.decode
    sections = list(QUESTIONS)[:2]
    for section, (quote, ask, summarise) in zip(sections, (prompts[:3], prompts[3:]), strict=True):
        assert topics[section] in decode(quote.document)
        title = topics[section].splitlines()[0]
        assert f'Write out the section "{title}" word for word.' in decode(quote.target.questions[0])
        assert QUESTIONS[section] in decode(ask.target.questions[0])
        assert f'Summarise the section "{title}"' in decode(summarise.target.questions[0])
