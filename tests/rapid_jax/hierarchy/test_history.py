"""Prompt lookup against a plain search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.hierarchy.history import History, append, lookup


def search(past, recent, count, length, min_match=1):
    """(longest match, latest place) first: what followed, again and again where the past ends."""
    places = []
    for place in range(1, len(past)):
        matched = 0
        while matched < len(recent) and matched < place and past[place - 1 - matched] == recent[-1 - matched]:
            matched += 1
        if matched >= min_match:
            places.append((matched, place))
    best = [place for _, place in sorted(places, reverse=True)[:count]]
    return [[past[place + j % (len(past) - place)] for j in range(length)] for place in best]


@pytest.mark.parametrize("min_match", [1, 2])
def test_lookups_follow_a_plain_search(min_match):
    """3,000 rows of random pasts over few tokens, so that there are matches of every length."""
    generator = np.random.default_rng(0)
    batch, slots, count, length = 3000, 24, 3, 4
    tokens = generator.integers(0, 3, (batch, slots)).astype(np.int32)
    sizes = generator.integers(1, slots + 1, batch).astype(np.int32)
    recent = generator.integers(0, 3, (batch, 3)).astype(np.int32)
    ask = jax.jit(functools.partial(lookup, min_match=min_match), static_argnums=(2, 3))
    found, lengths = ask(History(tokens, sizes), recent, count, length)
    for b in range(batch):
        expected = search(tokens[b, : sizes[b]].tolist(), recent[b].tolist(), count, length, min_match)
        ours = [row[:n].tolist() for row, n in zip(np.asarray(found[b]), np.asarray(lengths[b]), strict=True) if n]
        assert ours == expected


def test_appended_tokens_are_found_and_the_rest_is_not():
    """What lies beyond the length is garbage: it must never be drafted."""
    history = History(jnp.array([[5, 6, 9, 9, 9, 9]]), jnp.array([2]))
    history = append(history, jnp.array([[7, 5, 8]]), jnp.array([2]))
    assert history.tokens.tolist() == [[5, 6, 7, 5, 9, 9]] and history.length.tolist() == [4]
    tokens, lengths = lookup(history, jnp.array([[7, 5]]), 2, 5)
    assert lengths.tolist() == [[5, 0]] and tokens[0, 0].tolist() == [6, 7, 5, 6, 7]


def test_appending_past_the_capacity_drops():
    """A clamped write would overwrite the newest tokens."""
    history = append(History(jnp.array([[1, 2, 3]]), jnp.array([2])), jnp.array([[4, 5]]), jnp.array([2]))
    assert history.tokens.tolist() == [[1, 2, 4]]
