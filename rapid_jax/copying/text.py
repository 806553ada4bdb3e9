"""A row's text with the length of the match of its end at every place, kept up to date token by token.

A place s matches by m where the m tokens before it are the last m tokens of the text. When a token t is appended,
place s matches by one more than place s - 1 did if t stands there, and by nothing otherwise. So the longest suffix that
stood in the text before, wherever and however long, costs one pass over the places a token, without an index: what a
suffix automaton finds (SuffixDecoding, arXiv 2411.04975), in arrays of static shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

FIRST_MATCH = 32  # longest match that is looked for when a text is given; matches grow beyond it as tokens come


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ReadText:
    """Token ids behind a length; what lies beyond is garbage.

    Attributes:
      tokens: int32 [B,S].
      length: int32 [B].
      matched: int32 [B,S], tokens before each place that are also the text's last ones.
    """

    tokens: jax.Array
    length: jax.Array
    matched: jax.Array


def make_text(texts: Sequence[Sequence[int]], capacity: int, put: Callable[[list[np.ndarray]], jax.Array]) -> ReadText:
    """What rows have read at first: their texts, with room for `capacity` tokens; `put` stacks rows on devices."""
    found = {text: matches(text, capacity) for text in set(map(tuple, texts))}
    return ReadText(
        put([np.pad(np.asarray(text, np.int32), (0, capacity - len(text))) for text in texts]),
        put([np.asarray(len(text), np.int32) for text in texts]),
        put([found[tuple(text)] for text in texts]),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Copy:
    """What may follow.

    Attributes:
      tokens: int32 [B,n].
      matched: int32 [B], tokens before the copied place that agree with the text's end; 0 where nothing is proposed.
      place: int32 [B], where the copy begins.
    """

    tokens: jax.Array
    matched: jax.Array
    place: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Copies:
    """What may follow, the best first: the fields of Copy, int32 [B,P,n] and [B,P]."""

    tokens: jax.Array
    matched: jax.Array
    place: jax.Array

    @property
    def best(self) -> Copy:
        """The first of each row."""
        return Copy(self.tokens[:, 0], self.matched[:, 0], self.place[:, 0])


def matches(tokens: Sequence[int], capacity: int) -> np.ndarray:
    """`ReadText.matched` of one row's text, up to FIRST_MATCH, int32 [capacity]."""
    text = np.asarray(tokens, np.int32)
    found = np.zeros(capacity, np.int32)
    agrees = np.ones(len(text), bool)
    for back in range(1, min(FIRST_MATCH, len(text)) + 1):
        agrees[:back] = False
        agrees[back:] &= text[: len(text) - back] == text[-back]
        found[: len(text)] += agrees
    return found


def append(text: ReadText, tokens: jax.Array, count: jax.Array) -> ReadText:
    """Adds the first count [B] of tokens [B,M] to each row; there must be room for them."""
    capacity = text.tokens.shape[1]
    rows = jnp.arange(tokens.shape[0])

    def one(index: jax.Array, text: ReadText) -> ReadText:
        token, more = tokens[:, index], index < count
        before = jnp.roll(text.tokens, 1, axis=1).at[:, 0].set(-1) == token[:, None]
        longer = jnp.where(before, jnp.roll(text.matched, 1, axis=1) + 1, 0)
        return ReadText(
            text.tokens.at[rows, jnp.where(more, text.length, capacity)].set(token, mode="drop"),
            text.length + more,
            jnp.where(more[:, None], longer, text.matched),
        )

    return jax.lax.fori_loop(0, jnp.max(count), one, text)


def propose(text: ReadText, length: int, places: int) -> Copies:
    """What followed where the text's end stood before.

    The longest match comes first. Of those that match as far, the first is the one whose continuation the others agree
    with longest, then the latest. A copy that runs into the end of the text goes on with its own beginning, as text
    that repeats itself does.

    Args:
      text: B rows.
      length: n, tokens of a copy.
      places: P, that are compared: those with the longest matches, the latest of equal ones.
    """
    slots = text.tokens.shape[1]
    position = jnp.arange(slots)[None, :]
    longest = (2**31 - 1) // slots - 1  # what the score has room for
    found = (text.matched > 0) & (position < text.length[:, None])
    score = jnp.where(found, jnp.minimum(text.matched, longest) * slots + position, -1)
    held = []
    for _ in range(places):
        best = jnp.argmax(score, axis=1)
        held.append((best, jnp.take_along_axis(score, best[:, None], axis=1)[:, 0]))
        score = jnp.where(position == best[:, None], -1, score)
    place, value = (jnp.stack(x, axis=1) for x in zip(*held, strict=True))  # [B,P]
    alike = (value >= 0) & (value // slots == value[:, :1] // slots)
    period = jnp.maximum(text.length[:, None] - place, 1)[..., None]
    index = jnp.minimum(place[..., None] + jnp.arange(length)[None, None, :] % period, slots - 1)
    following = jax.vmap(lambda row, index: row[index])(text.tokens, index)  # [B,P,n]
    same = jnp.cumprod(following[:, :, None] == following[:, None], axis=-1).sum(-1)  # [B,P,P]
    votes = jnp.where(alike, jnp.sum(same * alike[:, None, :], axis=2), -1)
    order = jnp.argsort(-votes, axis=1, stable=True)
    matched = jnp.where(value < 0, 0, jnp.take_along_axis(text.matched, place, axis=1))

    def ranked(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)

    return Copies(ranked(following), ranked(matched), ranked(place).astype(jnp.int32))
