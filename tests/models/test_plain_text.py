"""Text is data: what is written in a document or a message never becomes a control token."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.plain_text import Control, clean_text, unused_mark
from models.tokenizer import load_tokenizer
from tests.tokenizers_made import NAMES, SENTENCES, kinds


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: load_tokenizer(path) for name, path in kinds(tmp_path_factory.mktemp("kinds")).items()}


@pytest.fixture(params=NAMES)
def tokenizer(request, made):
    return made[request.param]


def control(tokenizer):
    """Ids that a template alone may write: all special tokens, and those that are marked up."""
    tokens = tokenizer.hf.added_tokens_decoder.items()
    return {id_: t.content for id_, t in tokens if t.special or t.content.startswith("<")}


def test_control_tokens_written_in_a_text_are_its_characters(tokenizer):
    """A document that holds "<|im_end|>" would end the user's turn, and could begin one of the system's."""
    names = control(tokenizer)
    assert names
    for text in [
        *names.values(),
        "a".join(names.values()),
        "".join(names.values()),
        *(f"x {n}\n{n}y" for n in names.values()),
    ]:
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert not set(ids) & (set(names) - {tokenizer.hf.unk_token_id}), text
        assert tokenizer.decode(ids) == text
        assert offsets[-1][1] == len(text) and offsets == sorted(offsets)


@pytest.mark.parametrize("name", ["qwen", "llama3"])
def test_the_characters_have_the_ids_of_the_model_itself(made, name):
    """ "<|im_end|>" in a text is what byte-pair encoding makes of its characters, as transformers does when asked."""
    tokenizer = made[name]
    for text in [*tokenizer.special_ids.values(), "a <|im_end|>\n<|eot_id|>b"]:
        expected = tokenizer.hf(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.encode(text) == expected and len(expected) > 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_makes_a_control_token_and_all_text_survives(tokenizer, data):
    """Whatever stands before or behind a token's name, whole or in part."""
    names = list(control(tokenizer).values())
    parts = st.sampled_from([*names, *(n[:-1] for n in names), *(n[1:] for n in names), " ", "\n", "a", "é", "🙂", "▁"])
    text = "".join(data.draw(st.lists(parts, max_size=8)))
    ids = tokenizer.encode(text)
    assert not set(ids) & (set(control(tokenizer)) - {tokenizer.hf.unk_token_id})


@pytest.mark.parametrize("text", [*SENTENCES[:3], "naïve 日本 🙂 2024.\n\n\tx  y", "it's", "", "\n"])
def test_other_texts_have_the_ids_that_transformers_gives(tokenizer, text):
    """Text without special tokens must be read as in training."""
    assert tokenizer.encode(text) == tokenizer.hf(text, add_special_tokens=False)["input_ids"]


def test_special_tokens_are_read_where_that_is_asked_for(tokenizer):
    """A prompt made by hand for a raw model holds them, and must have the ids that transformers gives."""
    names = list(control(tokenizer).values())
    for text in [names[0] + "Mira", f"Mira{names[-1]}stood in{names[0]}{names[-1]} x", *names]:
        expected = tokenizer.hf(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, special_tokens=True) == expected
        ids, offsets = tokenizer.encode_with_offsets(text, special_tokens=True)
        assert ids == expected and offsets[-1][1] == len(text)


def test_added_words_and_blanks_are_text(made):
    """Words that somebody added to a vocabulary are words of documents; only what is marked up is control."""
    hf = made["qwen"].hf
    from models.tokenizer import Tokenizer

    other = type(hf)(tokenizer_object=hf.backend_tokenizer, eos_token="<|endoftext|>", chat_template=hf.chat_template)
    other.add_tokens(["harbourmaster", "    ", "<section>"])
    tokenizer = Tokenizer(other)
    ids = tokenizer.encode("harbourmaster    <section>")
    word, blanks, section = other.convert_tokens_to_ids(["harbourmaster", "    ", "<section>"])
    assert ids[:2] == [word, blanks] and section not in ids


def test_a_tokenizer_without_a_blank_of_its_own_puts_none_within_a_text(made):
    """SentencePiece's blank before a text belongs to its beginning alone."""
    for name in ("llama2", "sentencepiece", "sentencepiece_legacy"):
        tokenizer = made[name]
        whole = tokenizer.encode("the lamp\nof Mira")
        apart = tokenizer.encode("the lamp") + tokenizer.encode("\nof Mira", within=True)
        assert whole == apart, name
        assert tokenizer.encode("\nof Mira") != tokenizer.encode("\nof Mira", within=True)


@pytest.mark.parametrize(
    "text, clean",
    [
        ("plain", "plain"),
        ("a\ud83db", "a\ufffdb"),
        ("\udcff", "\ufffd"),
        ("end\ud800", "end\ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude42", "🙂"),
        ("é\ud800é", "é\ufffdé"),
    ],
)
def test_lone_surrogates_become_replacement_characters(tokenizer, text, clean):
    """A file name's bytes or a cut JSON escape must not end in a traceback of the tokenizer."""
    assert clean_text(text) == clean
    assert tokenizer.encode(text) == tokenizer.encode(clean)
    assert tokenizer.encode_with_offsets(text) == tokenizer.encode_with_offsets(clean)


@pytest.mark.parametrize("text", [None, b"bytes", 3, ["a"]])
def test_what_is_no_text_is_refused_in_one_line(tokenizer, text):
    with pytest.raises(ValueError, match="a text must be a string, got") as caught:
        tokenizer.encode(text)
    assert "\n" not in str(caught.value)


def test_a_mark_is_in_none_of_the_texts():
    """A text that holds the stand-ins' own character would be taken for one."""
    first = unused_mark([])
    assert unused_mark([first, "x"]) not in (first, "x")
    assert unused_mark(["".join(map(chr, range(0xE000, 0xF900)))]) == chr(0xF0000)


MESSAGES = st.text(st.sampled_from(list("<|im_startend>\n a")), max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(MESSAGES, min_size=1, max_size=3), extra=st.sampled_from(["", "<|im_end|>", "<|im_start|>system\n"])
)
@example(texts=["<|im_start|"], extra="")
@example(texts=["|im_end|>", "<"], extra="")
def test_stand_ins_keep_a_templates_tokens_apart_and_give_the_text_back(made, texts, extra):
    """Also where a message's end and the template's next character would make up a token together."""
    tokenizer = made["qwen"]
    texts, mark = [text + extra for text in texts], "\ue000"
    protected = [tokenizer.protect(text, mark) for text in texts]
    rendered = "<|im_start|>" + ">".join(f"{text}<" for text in protected) + "|im_end|>" + "<|im_end|>"
    pieces = tokenizer.parse(rendered, mark)
    written = [piece.text for piece in pieces if isinstance(piece, Control)]
    assert written == ["<|im_start|>", "<|im_end|>", "<|im_end|>"] or written == ["<|im_start|>", "<|im_end|>"]
    assert "".join(p.text if isinstance(p, Control) else p for p in pieces) == (
        "<|im_start|>" + ">".join(f"{text}<" for text in texts) + "|im_end|>" + "<|im_end|>"
    )
    for text, stand_in in zip(texts, protected, strict=True):
        assert not [p for p in tokenizer.pieces(stand_in, special_tokens=True) if isinstance(p, Control)], text
