"""How far copies are trusted: the share of copied tokens that were right, by the length of the match before them.

Every step teaches, those that draft nothing as well: what would have been copied is compared with what was emitted. A
token behind a match of m tokens was right with a probability that grows with m, and each right one makes the match
longer, so that the shares tell how many tokens of a draft will be kept.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

LEAST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # shortest match of each class
PRIOR = (0.2, 0.4, 0.5, 0.7, 0.8, 0.87, 0.9, 0.94, 0.96, 0.98)  # before anything is seen; of the first drafts alone
PRIOR_WEIGHT = 4.0  # tokens that a prior counts as
MOST_WEIGHT = 64.0  # tokens that earlier answers count as, at most
MARGIN = 1.1  # a step without a draft counts as so many tokens: what drafts promise is less sure than what it gives
_LOST_SHARE, _LOST_STEPS = 1.03, 1.0  # time that an answer may take at most, over plain decoding's: a share, and steps
_PRIOR_STEPS = 4.0  # without a draft, which an answer's speed begins with


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Trust:
    """Tokens by class of match, float32 [B,N].

    Attributes:
      right: that were copied rightly.
      seen: that were compared.
    """

    right: jax.Array
    seen: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Speed:
    """How fast an answer has been so far, float32 [B]: the tokens emitted, and the costs of their steps."""

    tokens: jax.Array
    costs: jax.Array

    def after(self, emitted: jax.Array, cost: jax.Array) -> Speed:
        """Behind a step at this cost that emitted int32 [B] tokens; rows that emitted none have ended."""
        return Speed(self.tokens + emitted, self.costs + jnp.where(emitted > 0, cost, 0.0))


def initial_speed() -> np.float32:
    """Tokens and costs that an answer's speed begins with, of one row: those of steps without a draft."""
    return np.float32(_PRIOR_STEPS)


def initial(earlier: tuple[np.ndarray, np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`right` and `seen` of one row, float32 [N]: the prior, and what earlier answers have shown."""
    right, seen = np.multiply(PRIOR, PRIOR_WEIGHT), np.full(len(PRIOR), PRIOR_WEIGHT)
    if earlier is not None:
        scale = np.minimum(1.0, MOST_WEIGHT / np.maximum(earlier[1], 1.0))
        right, seen = right + earlier[0] * scale, seen + earlier[1] * scale
    return right.astype(np.float32), seen.astype(np.float32)


def expected(trust: Trust, matched: jax.Array, length: int) -> jax.Array:
    """Tokens of a copy that will be kept, for drafts of 1..length tokens, float32 [B,length]; 0 without a match."""
    rate = trust.right / trust.seen
    classes = _classes(matched, length)
    each = jnp.where((matched > 0)[:, None], jnp.take_along_axis(rate, classes, axis=1), 0.0)
    return jnp.cumsum(jnp.cumprod(each, axis=1), axis=1)


def best_way(kept: jax.Array, active: jax.Array, costs: jax.Array, speed: Speed, *, copies: int) -> jax.Array:
    """The index of the best way to draft for all rows together, 0 for none, int32.

    A way is worth its tokens less those that the same time brings at the speed of the answer so far (how a policy is
    improved where average reward counts: Howard, Dynamic Programming and Markov Processes, 1960). The way of most
    tokens a second would take a long step that is a little faster than none, in the place of fast copies to come. The
    speed counts as that of no drafts at least: an answer that drafts have slowed down needs fewer of them, not more.

    Args:
      kept: float32 [B,P], drafted tokens that each row will keep in each of P ways.
      active: bool [B], rows that have not ended.
      costs: float32 [1+P], of a step without a draft and of one in each way, over the first.
      speed: so far.
      copies: of the ways, the first ones behind that of no draft; they may not let an answer fall behind plain decoding
        by more than a share of it and a step, where nothing of the copy is kept.
    """
    emitted = jnp.sum(active) + jnp.pad(jnp.sum(kept * active[:, None], axis=0), (1, 0))
    margin = jnp.where(jnp.arange(len(costs)) == 0, MARGIN, 1.0)
    so_far = jnp.sum(jnp.where(active, jnp.maximum(speed.tokens / speed.costs, 1.0), 0.0))
    behind = jnp.sum(jnp.where(active, speed.costs - _LOST_SHARE * speed.tokens, 0.0)) / jnp.maximum(jnp.sum(active), 1)
    way = jnp.arange(len(costs))
    risked = (way > 0) & (way <= copies) & (behind + costs - _LOST_SHARE > _LOST_STEPS)
    worth = jnp.where(jnp.isfinite(costs) & ~risked, emitted * margin - so_far * costs, -jnp.inf)
    return jnp.argmax(worth).astype(jnp.int32)


def observe(trust: Trust, copied: jax.Array, matched: jax.Array, emitted: jax.Array, count: jax.Array) -> Trust:
    """What a step has shown of a copy, whether it was drafted or not.

    Args:
      trust: before.
      copied: int32 [B,n], proposed behind matches of matched [B] tokens; 0 for no match.
      emitted: int32 [B,M], of which the first count [B] were emitted; M > n.
    """
    length = copied.shape[1]
    there = jnp.arange(length)[None, :] < count[:, None]
    right = jnp.cumprod((copied == emitted[:, :length]) & there, axis=1)
    before = jnp.pad(right[:, :-1], ((0, 0), (1, 0)), constant_values=1)
    compared = before * there * (matched > 0)[:, None]
    of_class = jax.nn.one_hot(_classes(matched, length), len(LEAST)) * compared[..., None]
    return Trust(trust.right + jnp.sum(of_class * right[..., None], axis=1), trust.seen + jnp.sum(of_class, axis=1))


def _classes(matched: jax.Array, length: int) -> jax.Array:
    """The class of the match before each of `length` copied tokens, int32 [B,length]."""
    longer = jnp.maximum(matched, 1)[:, None] + jnp.arange(length)[None, :]
    return jnp.sum(longer[..., None] >= jnp.asarray(LEAST)[None, None, :], axis=-1, dtype=jnp.int32) - 1
