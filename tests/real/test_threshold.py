"""The threshold of a published sentence encoder, over a real long text."""

from pathlib import Path

import numpy as np
import pytest
import transformers

from models import hub
from rapid_jax import retrieval
from tests.real.conftest import ENCODER, needed

pytestmark = pytest.mark.real

QUESTIONS = (
    "What does the assert statement do?",
    "How are attributes of an object looked up?",
    "How can I await a coroutine?",
    "What are descriptors used for?",
    "How do bitwise operators work on integers?",
    "Summarise what this text says about errors.",
    "Can I check a condition while debugging?",
    "swap two variables",
    "Why is my value not copied?",
)
UNRELATED = ("Which spices go into a fish curry?", "How do I treat a sprained ankle?", "What is the capital of Peru?")


@pytest.fixture(scope="module")
def path() -> Path:
    return hub.resolve(needed(ENCODER))


@pytest.fixture(scope="module")
def document() -> str:
    """The beginning of Python's language reference by topic, about 8,192 tokens."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))[:32_000]


@pytest.fixture(scope="module")
def retriever(path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)

    def make(**settings):
        config = retrieval.RetrievalConfig(embedder=f"encoder:{path}", **settings)
        return retrieval.Retriever(tokenizer, retrieval.make_embedder(config), config)

    return make


def test_sensible_questions_find_several_passages(retriever, document):
    """Under BGE-M3's threshold two of these find none, and two a single one."""
    index = retriever().index(document)
    found = [index.retrieve(question) for question in QUESTIONS]
    assert not any(context.below_threshold for context in found)
    assert min(len(context.passages) for context in found) >= 2
    assert all(index.retrieve(question).below_threshold for question in UNRELATED)
    published = retriever(threshold=0.3).index(document)
    assert sum(len(published.retrieve(question).passages) == 1 for question in QUESTIONS) >= 3


def test_the_rule_for_unknown_encoders_agrees_with_the_measured_threshold(retriever, document):
    """A prompt of one's own asks for calibration; this one hardly moves the vectors."""
    index = retriever(query_prompt=" .").index(document)
    assert 0.05 < index.settings["threshold"] < 0.2
    assert not any(index.retrieve(question).below_threshold for question in QUESTIONS)


def test_the_end_of_a_chunk_is_known(retriever, caplog):
    """Chunks hold 512 tokens, MiniLM reads 256."""
    filler = "The harbour was quiet and the boats lay still in the evening light. " * 40
    fact = "Descriptors are objects that define the methods get, set and delete."
    vectors = retriever()._embedder.embed_chunks([filler + fact, filler])
    cosines = vectors.vectors @ vectors.embed_query("What methods does a descriptor define?")
    assert cosines[0] > cosines[1] + 0.05
    assert np.allclose(np.linalg.norm(vectors.vectors, axis=1), 1, atol=1e-5) and not caplog.text
