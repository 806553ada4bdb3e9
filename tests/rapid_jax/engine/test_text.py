"""Tokens to text as they come: stop strings, half characters, stop ids."""

import pytest

from models.tokenizer import Tokenizer
from rapid_jax.engine.text import TextRow

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
