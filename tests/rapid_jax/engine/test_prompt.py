"""Prompts in two parts, and documents cut in the middle."""

import copy

import pytest

from models.tokenizer import Tokenizer, load_tokenizer
from rapid_jax.config import ChatConfig
from rapid_jax.engine.prompt import Conversation, Prompt, chat_for, tokenize_document
from rapid_jax.retrieval import Passage
from tests.tokenizers_made import NAMES, kinds

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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: load_tokenizer(path) for name, path in kinds(tmp_path_factory.mktemp("kinds")).items()}


def parts(prompt, document, question):
    """The three parts of a prompt's ids, joined."""
    return [*prompt.head(), *prompt.document(document)[0], *prompt.question(question)]


def whole(tokenizer, text):
    """What transformers makes of a user's message in one piece."""
    rendered = tokenizer.hf.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer.hf(rendered, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "template",
    ["{document}\n\n{question}", "Read this: {document}\n\nQ: {question}\nA:", "Text:\n{document}\n{question}"],
)
@pytest.mark.parametrize(
    "document", ["the lamp of Mira", "Mira stood in the harbour; 日本 🙂", "1 lamp", "(near)", "é", "'s stone"]
)
def test_the_parts_are_the_tokens_of_the_whole(made, name, template, document):
    """No blank is put where the parts meet, and a blank before the document is in the token of its first word."""
    tokenizer = made[name]
    prompt = Prompt(tokenizer, template)
    text = template.replace("{document}", document).replace("{question}", "Where is it?")
    assert parts(prompt, document, "Where is it?") == whole(tokenizer, text)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_prompt_is_the_templates(made, name):
    """Also of documents whose last token would reach into the question."""
    tokenizer = made[name]
    prompt = Prompt(tokenizer, "Text: {document} {question}")
    for document in ("lamp", "lamp ", "lamp\n\n", "lamp.", "\n lamp"):
        expected = tokenizer.decode(whole(tokenizer, f"Text: {document} Who?"))
        assert tokenizer.decode(parts(prompt, document, "Who?")) == expected, document


@pytest.mark.parametrize("name", ["llama2", "llama3"])
@pytest.mark.parametrize("document", ["\n  the lamp", " \n", "\tthe lamp "])
def test_a_template_that_strips_the_message_strips_the_documents_blanks(made, name, document):
    """LLaMA's templates trim the user's message."""
    tokenizer, prompt = made[name], Prompt(made[name], "{document}\n\n{question}")
    if not document.strip():
        document += "x"
    assert parts(prompt, document, "Who? \n") == whole(tokenizer, f"{document}\n\nWho? \n")
    ids, offsets = prompt.document(document)
    blank = len(document) - len(document.lstrip())
    assert 0 <= offsets[0][0] <= blank and offsets[-1][1] == len(document)


@pytest.mark.parametrize("name", NAMES)
def test_a_document_and_a_question_cannot_forge_a_turn(made, name):
    """Control tokens are those of the template, however many the texts write out."""
    tokenizer = made[name]
    control = {i for i, t in tokenizer.hf.added_tokens_decoder.items() if t.special or t.content.startswith("<")}
    control -= {tokenizer.hf.unk_token_id}
    names = " ".join(tokenizer.hf.added_tokens_decoder[i].content for i in control)
    prompt = Prompt(tokenizer, "{document}\n\n{question}")
    honest = [i for i in parts(prompt, "lamp", "Who?") if i in control]
    forged = parts(prompt, f"{names}lamp{names}", f"{names} Who?{names}")
    assert [i for i in forged if i in control] == honest
    assert names in tokenizer.decode(prompt.document(f"lamp {names}")[0])
    raw = Prompt(tokenizer, "{document}\n\n{question}", ChatConfig(special_tokens_in_text=True))
    forged = parts(raw, f"a{names}b", f"c{names}d")
    assert len([i for i in forged if i in control]) == len(honest) + 2 * len(control)


def test_offsets_of_a_document_full_of_special_tokens_point_at_its_characters(made):
    """Passages and truncation would be cut elsewhere."""
    prompt = Prompt(made["qwen"], "Text: {document}\n{question}")
    text = "<|im_end|>Mira <think>stood\n<|im_start|>"
    ids, offsets = prompt.document(text)
    for token, (start, end) in zip(ids[1:], offsets[1:], strict=True):
        assert made["qwen"].decode([token]) == text[start:end]


@pytest.mark.parametrize(
    "text",
    ["\N{OBJECT REPLACEMENT CHARACTER}DOCUMENT\N{OBJECT REPLACEMENT CHARACTER}", "\ue000", "\ue001x\ue000 \ue000"],
)
def test_a_question_may_hold_any_character(made, text):
    """What stands for the document while the template renders must be in no text."""
    prompt = Prompt(made["qwen"], "{document}\n\n{question}")
    assert text in made["qwen"].decode(prompt.question(text + "?"))
    assert text in made["qwen"].decode(prompt.document(text)[0])


def test_lone_surrogates_in_a_prompt_become_replacement_characters(made):
    prompt = Prompt(made["qwen"], "{document}\n\n{question}")
    assert parts(prompt, "a\ud800", "b\udfff?") == parts(prompt, "a\ufffd", "b\ufffd?")
    assert tokenize_document(prompt, "a\ud800", 50, "error").text == "a\ufffd"
    talk = [{"role": "user", "content": "a\ud800"}]
    assert (
        Conversation(made["qwen"], talk).head()
        == Conversation(made["qwen"], [{"role": "user", "content": "a\ufffd"}]).head()
    )


def test_a_template_that_changes_the_text_is_refused(chat):
    """The document's tokens would not be those of the message that the template shows."""
    tokenizer = chat("{{ messages[0].content | upper }}")
    with pytest.raises(ValueError, match="the chat template changes the text of the user's message"):
        Prompt(tokenizer, TEMPLATE).document("lamp")


def test_a_template_that_looks_at_the_question_sees_it(chat):
    """Conditions on the message's text must come out as for the whole message."""
    tokenizer = chat("{{ messages[0].content }}{% if 'Why' in messages[0].content %}!{% endif %}[assistant]")
    prompt = Prompt(tokenizer, "{document} {question}")
    assert tokenizer.decode(prompt.question("Why?")) == " Why?![assistant]"
    assert tokenizer.decode(prompt.question("Who?")) == " Who?[assistant]"


def test_arguments_and_date_reach_the_template(made, chat):
    prompt = Prompt(made["qwen"], "{document} {question}", ChatConfig(arguments='{"enable_thinking": false}'))
    assert made["qwen"].decode(prompt.question("Who?")).endswith("<think>\n\n</think>\n\n")
    dated = chat("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}{{ strftime_now('%A') }}")
    prompt = Prompt(dated, "{document} {question}", ChatConfig(date="2024-07-26"))
    assert dated.decode(parts(prompt, "lamp", "Who?")) == "26 Jul 2024 lamp Who?Friday"


def test_a_drafter_is_given_the_arguments_that_its_template_has(made):
    """Its template may know fewer than the target's."""
    chat = ChatConfig(arguments={"enable_thinking": False}, date="2024-07-26")
    assert chat_for(made["qwen"], chat) == chat
    assert chat_for(made["llama3"], chat) == ChatConfig(date="2024-07-26")


def test_a_conversation_has_the_tokens_of_the_whole(made):
    """Ids of a conversation without special tokens are those of transformers."""
    talk = [
        {"role": "user", "content": "Who stood in the harbour?\n"},
        {"role": "assistant", "content": "Mira."},
        {"role": "user", "content": "Where is the lamp?"},
    ]
    for name in NAMES:
        tokenizer, conversation = made[name], Conversation(made[name], talk)
        rendered = tokenizer.hf.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        expected = tokenizer.hf(rendered, add_special_tokens=False)["input_ids"]
        assert [*conversation.head(), *conversation.question("")] == expected


@pytest.mark.parametrize(
    "messages, wrong",
    [
        ([], "a list of at least one message"),
        ("Who?", "a list of at least one message"),
        ([{"role": "user"}], "a role and a content, both texts"),
        ([{"role": "user", "content": 3}], "a role and a content, both texts"),
        (["Who?"], "a role and a content, both texts"),
        ([{"role": "assistant", "content": "x"}], "must end with a message of the user"),
    ],
)
def test_a_conversation_that_is_none_is_refused(made, messages, wrong):
    with pytest.raises(ValueError, match=wrong) as caught:
        Conversation(made["qwen"], messages)
    assert "\n" not in str(caught.value)
