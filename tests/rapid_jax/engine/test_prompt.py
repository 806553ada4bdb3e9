"""Prompts in two parts, and documents cut in the middle."""

import copy

import pytest

from models.tokenizer import Tokenizer
from rapid_jax.engine.prompt import Prompt, tokenize_document
from rapid_jax.retrieval import Passage

TEMPLATE = "Read this.\n{document}\n\nQ: {question}\nA:"


def bare(tokenizer):
    """A prompt in which nothing precedes the document but the bos token."""
    return Prompt(tokenizer, "{document}{question}")


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return Tokenizer(tiny_tokenizer, (2,))


@pytest.fixture
def chat(tiny_tokenizer):
    def make(template):
        hf = copy.deepcopy(tiny_tokenizer)
        hf.chat_template = template
        return Tokenizer(hf, (2,))

    return make


def test_head_document_and_question_join_to_the_template(tokenizer):
    """What the model reads is the template, no more and no less, with bos once at the start."""
    prompt = Prompt(tokenizer, TEMPLATE)
    ids = [*prompt.head(), *prompt.document("DOC é")[0], *prompt.question("Why?")]
    assert ids[0] == 1 and ids.count(1) == 1
    assert tokenizer.decode(ids) == "Read this.\nDOC é\n\nQ: Why?\nA:"


def test_the_head_is_the_same_for_every_question(tokenizer):
    """The document's keys are computed once, behind the head."""
    prompt = Prompt(tokenizer, TEMPLATE)
    assert prompt.head() == Prompt(tokenizer, TEMPLATE).head()
    assert prompt.question("One?") != prompt.question("Two?")


def test_braces_and_placeholders_in_a_question_stay_as_they_are(tokenizer):
    """Questions are data, not templates."""
    text = "What does {document} or {question} or {0} mean?"
    assert text in tokenizer.decode(Prompt(tokenizer, TEMPLATE).question(text))


def test_a_chat_template_is_rendered_around_both_parts(chat):
    """The user's turn opens before the document and closes behind the question."""
    tokenizer = chat("{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[assistant]")
    prompt = Prompt(tokenizer, "{document} {question}")
    assert tokenizer.decode(prompt.head()) == "[user]"
    assert tokenizer.decode(prompt.question("Why?")) == " Why?[/][assistant]"


@pytest.mark.parametrize("template, times", [("nothing", 0), ("{{ messages[0].content }}{{ messages[0].content }}", 2)])
def test_a_chat_template_that_loses_or_doubles_the_message_is_refused(chat, template, times):
    """The document could not be placed."""
    with pytest.raises(ValueError, match=f"shows the user's message {times} times; it must show it once"):
        Prompt(chat(template), TEMPLATE).head()


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(tokenizer, question):
    """There would be nothing to answer."""
    with pytest.raises(ValueError, match="the question is empty"):
        Prompt(tokenizer, TEMPLATE).question(question)


def test_a_question_of_one_token_is_refused(tokenizer):
    """The first step reads the last two tokens of the prompt."""
    with pytest.raises(ValueError, match="makes 1 token"):
        Prompt(tokenizer, "{document}{question}").question("?")


def test_a_document_within_the_limit_is_whole(tokenizer):
    """Exactly at the limit nothing is cut."""
    document = tokenize_document(bare(tokenizer), "abcdef", 6, "error")
    assert (document.tokens, document.text, document.truncated_tokens) == (tokenizer.encode("abcdef"), "abcdef", 0)


@pytest.mark.parametrize("limit, kept", [(5, "abcij"), (4, "abij"), (1, "a"), (2, "aj")])
def test_the_middle_is_left_out_and_counted(tokenizer, limit, kept):
    """First and last tokens stay: the beginning and the end of a document matter most."""
    document = tokenize_document(bare(tokenizer), "abcdefghij", limit, "middle")
    assert document.text == kept and document.tokens == tokenizer.encode(kept)
    assert document.truncated_tokens == 10 - limit


def test_characters_cut_in_two_do_not_break_the_text(tokenizer):
    """A limit within an emoji: ids are kept exactly, the text stays valid and within the original."""
    text = "ab🙂cd🙂ef"
    document = tokenize_document(bare(tokenizer), text, 7, "middle")
    ids = tokenizer.encode(text)
    assert document.tokens == ids[:4] + ids[-3:] and document.truncated_tokens == len(ids) - 7
    assert document.text.startswith("ab") and document.text.endswith("ef")


@pytest.mark.parametrize("text_range, source_range", [((1, 3), (1, 3)), ((5, 7), (8, 10)), ((3, 6), (3, 9))])
def test_passages_of_a_truncated_document_point_into_the_given_one(tokenizer, text_range, source_range):
    """A reader who looks a passage up in the file would otherwise find other text there."""
    given = "abcdefghij"
    document = tokenize_document(bare(tokenizer), given, 7, "middle")
    assert document.text == "abcd" + "hij"
    start, end = text_range
    passage = document.in_source(Passage(document.text[start:end], start, end, 1, 0.5))
    assert (passage.start, passage.end) == source_range
    if end <= document.cut or start >= document.cut:
        assert given[passage.start : passage.end] == passage.text


def test_a_long_document_is_refused_where_truncation_is_an_error(tokenizer):
    """Nothing is dropped where the user forbade it; the line says how many tokens there are."""
    with pytest.raises(ValueError, match="the document has 10 tokens, the limit is 5: shorten it, or set") as error:
        tokenize_document(bare(tokenizer), "abcdefghij", 5, "error")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_document_is_refused(tokenizer, text):
    """A file of blank lines is a mistake, not a document."""
    with pytest.raises(ValueError, match="the document is empty"):
        tokenize_document(bare(tokenizer), text, 5, "middle")
