"""Matches of a text's end against a plain search, and which of them is copied."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.copying.text import FIRST_MATCH, ReadText, append, matches, propose


def plain_match(text, place):
    """Tokens before a place that are the text's last ones."""
    matched = 0
    while matched < place and text[place - 1 - matched] == text[-1 - matched]:
        matched += 1
    return matched


def read(rows, capacity):
    tokens = np.full((len(rows), capacity), 9, np.int32)  # garbage that would match
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = text
    lengths = jnp.array([len(text) for text in rows], jnp.int32)
    return ReadText(jnp.asarray(tokens), lengths, jnp.array([matches(text, capacity) for text in rows]))


@functools.lru_cache
def texts():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 3, size).tolist() for size in generator.integers(1, 25, 300)]


def test_matches_of_a_given_text_follow_a_plain_search():
    """Random texts over three tokens, so that there are matches of every length."""
    for text in texts():
        expected = [plain_match(text, place) for place in range(len(text))]
        assert matches(text, 24)[: len(text)].tolist() == expected
        assert not matches(text, 24)[len(text) :].any()


def test_a_given_text_is_searched_for_so_much_and_no_more():
    """A document of one repeated token would otherwise take a quadratic time."""
    assert matches([7] * 100, 128).max() == FIRST_MATCH


def test_matches_grow_with_the_text():
    """Appending keeps what a search of the longer text would find, in rows of different lengths, beyond FIRST_MATCH."""
    rows, capacity = texts(), 64
    generator = np.random.default_rng(1)
    more = generator.integers(0, 3, (len(rows), 9)).astype(np.int32)
    count = generator.integers(0, 10, len(rows)).astype(np.int32)
    longer = jax.jit(append)(read(rows, capacity), more, count)
    for b, text in enumerate(rows):
        whole = [*text, *more[b, : count[b]].tolist()]
        assert longer.length[b] == len(whole) and longer.tokens[b, : len(whole)].tolist() == whole
        expected = [plain_match(whole, place) for place in range(len(whole))]
        assert longer.matched[b, : len(whole)].tolist() == expected
    repeated = read([[5] * 40], 64)
    assert append(repeated, jnp.array([[5, 5]]), jnp.array([2])).matched[0, 41] == FIRST_MATCH + 2


def test_the_longest_match_is_copied():
    """Behind 1 2 stood 3; behind 2 alone, and later, 8: the longer match counts."""
    copy = propose(read([[0, 1, 2, 3, 4, 6, 2, 8, 7, 1, 2]], 16), 3, 4).best
    assert copy.matched.tolist() == [2] and copy.place.tolist() == [3] and copy.tokens.tolist() == [[3, 4, 6]]


def test_of_equal_matches_the_most_common_continuation_is_copied():
    """Behind 5 stood 1 twice, and last of all 2."""
    text = [5, 1, 7, 5, 1, 8, 5, 2, 9, 6, 5]
    copy = propose(read([text], 16), 2, 4).best
    assert copy.matched.tolist() == [1] and copy.tokens.tolist() == [[1, 8]], "the latest of those"
    assert propose(read([text], 16), 2, 1).best.tokens.tolist() == [[2, 9]], "one place compares nothing"


def test_shorter_matches_come_behind_the_longest():
    """The others are candidates too: those that match as far first, then the shorter ones, nothing where none is left."""
    text = [1, 2, 3, 0, 2, 4, 1, 2, 5, 0, 1, 2]
    copies = propose(read([text], 16), 1, 4)
    assert copies.tokens[0, :3, 0].tolist() == [5, 3, 4] and copies.matched.tolist() == [[2, 2, 1, 0]]


def test_a_repetition_goes_on_and_garbage_is_never_copied():
    """The latest match of text that repeats itself lies at its very end."""
    copy = propose(read([[4, 1, 2, 1, 2], [1, 2, 3], [3]], 16), 5, 2).best
    assert copy.tokens[0].tolist() == [1, 2, 1, 2, 1] and copy.matched.tolist() == [2, 0, 0]


@pytest.mark.parametrize("slots", [2**17])
def test_long_texts_do_not_overflow(slots):
    """Length and place of a match share an int32."""
    text = np.tile(np.arange(1000, dtype=np.int32), slots // 1000 + 1)[: slots - 8]
    state = ReadText(
        jnp.asarray(np.pad(text, (0, 8))[None]), jnp.array([slots - 8]), jnp.full((1, slots), 2**20, jnp.int32)
    )
    copy = propose(state, 4, 2).best
    assert copy.place[0] == slots - 9 and copy.matched[0] == 2**20
