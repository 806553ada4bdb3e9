"""Tokens to text as they come: stop strings, half characters, stop ids."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.tokenizer import Tokenizer, load_tokenizer
from rapid_jax.engine.text import TextRow, stop_ids_and_strings
from tests.tokenizers_made import NAMES, kinds

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return Tokenizer(tiny_tokenizer, (EOS,))


def feed(tokenizer, text, stop, sizes, *, end=()):
    """Pushes a text's tokens (one a byte) in bursts of these sizes; gives the row and its pieces."""
    row = TextRow(tokenizer, stop)
    ids, pieces = [*tokenizer.encode(text), *end], []
    while ids:
        size = sizes[len(pieces) % len(sizes)]
        burst, ids = ids[:size], ids[size:]
        pieces.append(row.push(burst, last=not ids))
    return row, pieces


@pytest.mark.parametrize("sizes", [[1], [2], [3, 1], [100]])
@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("one END two", ("END",), "one "),
        ("one EN two", ("END",), "one EN two"),
        ("one EENEND two", ("END",), "one EEN"),
        ("ab\n\ncd", ("\n\n", "x"), "ab"),
        ("abcd", ("bc", "abcx", "c"), "a"),
        ("END", ("END",), ""),
        ("tail E", ("END",), "tail E"),
        ("no stop", (), "no stop"),
        ("aé✓ 🙂 done", ("🙂",), "aé✓ "),
        ("aé✓ 🙂 done", (), "aé✓ 🙂 done"),
    ],
)
def test_stop_strings_cut_whatever_the_bursts(tokenizer, text, stop, expected, sizes):
    """A stop string over several tokens or bursts must end the text before itself and never be shown in part."""
    row, pieces = feed(tokenizer, text, stop, sizes)
    assert row.text == "".join(pieces) == expected
    assert row.stopped == (expected != text)


def test_pieces_never_show_what_a_stop_string_may_take_back(tokenizer):
    """Streamed text cannot be unsaid: "EN" waits until it is clear that no "END" follows."""
    _, pieces = feed(tokenizer, "a EN END", ("END",), [1])
    assert pieces == ["a", " ", "", "", "EN ", "", "", ""]


def test_half_characters_wait_for_their_other_bytes(tokenizer):
    """An emoji of four tokens appears once and whole."""
    _, pieces = feed(tokenizer, "🙂!", (), [1])
    assert pieces == ["", "", "", "🙂", "!"]


def test_a_character_cut_off_by_the_budget_is_shown_as_replaced(tokenizer):
    """What is left of it is not dropped silently."""
    row = TextRow(tokenizer, ())
    assert row.push(tokenizer.encode("🙂")[:2], last=True) == row.text != ""


def test_token_ids_end_with_the_token_that_completed_the_stop_string(tokenizer):
    """Counts of a stopped answer are of what was needed to stop."""
    row, _ = feed(tokenizer, "one END two", ("END",), [4])
    assert row.token_ids == tokenizer.encode("one END")
    assert row.push(tokenizer.encode("more"), last=True) == ""
    assert row.token_ids == tokenizer.encode("one END")


def test_stop_ids_are_counted_and_not_shown(tokenizer):
    """The end-of-sequence token is part of the ids and not of the text."""
    row, _ = feed(tokenizer, "done", (), [3], end=[EOS])
    assert row.text == "done" and row.token_ids[-1] == EOS and not row.stopped


def test_a_row_that_ended_earlier_takes_empty_bursts(tokenizer):
    """In a batch the other rows go on."""
    row, _ = feed(tokenizer, "done é", (), [9])
    assert row.push([], last=True) == row.push([], last=True) == ""
    assert row.text == "done é"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: load_tokenizer(path) for name, path in kinds(tmp_path_factory.mktemp("kinds")).items()}


def test_stop_strings_that_are_special_tokens_are_stop_ids(made):
    """The text of an answer never shows "<|im_end|>", so that it must be found among the ids."""
    tokenizer = made["qwen"]
    ids, strings = stop_ids_and_strings(tokenizer, ("<|im_end|>", "END", "</think>", "<|eot_id|>", "<|im_end|>"))
    assert ids == (2,) and strings == ("END", "</think>", "<|eot_id|>")
    row = TextRow(tokenizer, ("<|im_end|>",))
    tokens = [*tokenizer.encode("Mira"), 2, *tokenizer.encode("more")]
    assert row.push(tokens, last=False) == row.text == "Mira"
    assert row.stopped and row.token_ids == tokens[: -len(tokenizer.encode("more"))]


def test_a_special_token_written_out_by_the_model_does_not_stop_it(made):
    """Its characters are no stop id."""
    row = TextRow(made["qwen"], ("<|im_end|>",))
    assert row.push(made["qwen"].encode("a<|im_end|>b"), last=True) == "a<|im_end|>b" and not row.stopped


@pytest.mark.parametrize("stop", ["\n<|im_end|>", "<|im_end|>\n", " <|im_start|>user"])
def test_a_special_token_beside_other_text_is_refused(made, stop):
    """It would never be found."""
    with pytest.raises(ValueError, match=r"beside other text; give '<\|im_\w+\|>' alone") as caught:
        stop_ids_and_strings(made["qwen"], (stop,))
    assert "\n" not in str(caught.value)


def test_added_tokens_that_are_shown_stop_as_strings(made):
    """</think> is one token, and part of the text."""
    tokenizer = made["qwen"]
    think = tokenizer.hf.convert_tokens_to_ids("</think>")
    row = TextRow(tokenizer, ("</think>",))
    assert row.push([*tokenizer.encode("hm"), think, 300], last=False) == "hm"
    assert row.stopped and row.token_ids[-1] == think


@pytest.mark.parametrize("name", ["unigram", "llama2"])
def test_a_newline_that_is_a_byte_stops_at_once(made, name):
    """SentencePiece's bytes wait for the end of their run, stop strings must not."""
    tokenizer = made[name]
    ids = [*tokenizer.encode("the lamp\n\n"), *tokenizer.encode("more", within=True)]
    row, pieces = TextRow(tokenizer, ("\n\n",)), []
    for token in ids:
        pieces.append(row.push([token], last=False))
        if row.stopped:
            break
    assert "".join(pieces) == row.text == "the lamp"
    assert row.token_ids == tokenizer.encode("the lamp\n\n")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_pieces_of_any_tokens_are_the_text_of_all(made, name, data):
    """Also of tokens that are no text: bytes that do not belong together, special tokens between them."""
    tokenizer = made[name]
    size = tokenizer.vocab_size
    bytes_ = [i for i in range(size) if len(tokenizer.hf.convert_ids_to_tokens(i)) in (1, 6)]
    token = st.one_of(st.sampled_from(bytes_), st.integers(0, size - 1))
    ids = [i for i in data.draw(st.lists(token, max_size=24)) if i not in tokenizer.stop_ids]
    row, pieces, rest = TextRow(tokenizer, ()), [], list(ids)
    while rest:
        count = data.draw(st.integers(1, 4))
        burst, rest = rest[:count], rest[count:]
        pieces.append(row.push(burst, last=not rest))
    assert "".join(pieces) == row.text == (tokenizer.decode(ids) if ids else "")
