"""Sampling: temperature, top-k and top-p on logits, and the draw of a token.

Target and drafter go through the same `warp_logits` with the same settings before their distributions are
compared.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from rapid_jax.verification.chain import row_keys
from rapid_jax.verification.target_mixing import check_temperature


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Warping:
    """Temperature, top-k and top-p as arguments of a program; only whether decoding is greedy is compiled into it.

    Attributes:
      temperature: float32 scalar, of at least MIN_TEMPERATURE; not read if greedy.
      top_k: int32 scalar, tokens kept; 0 keeps all.
      top_p: float32 scalar, probability mass kept, in (0, 1].
      greedy: the argmax takes the place of every draw.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    greedy: bool = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def of(cls, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Warping:
        """The warping of these settings as host arrays; temperature 0 is greedy.

        Raises:
          ValueError: temperature neither 0 nor a finite number of at least MIN_TEMPERATURE, top_k negative, or top_p
            outside (0, 1].
        """
        if top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or a positive number of tokens, got {top_k}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        check_temperature(temperature)
        number: Any = np.float32
        return cls(
            number(temperature or 1.0), cast(Any, np.int32(min(top_k, 2**31 - 1))), number(top_p), temperature == 0
        )

    @property
    def remaining_temperature(self) -> float:
        """The temperature of logits that `warp_logits` has divided already: 1, or 0 for greedy."""
        return 0.0 if self.greedy else 1.0


def warp_logits(logits: jax.Array, warping: Warping) -> jax.Array:
    """Applies temperature, then top-k, then top-p; the softmax of the result is the distribution to sample.

    The order and the kept tokens are those of Hugging Face's TemperatureLogitsWarper, TopKLogitsWarper and
    TopPLogitsWarper. Top-k keeps every token that ties with the k-th. Top-p keeps the smallest set of the
    remaining tokens that holds at least top_p of their mass, the lower token ids of a tie first. One token at
    least is kept. What is switched off is skipped on the device.

    Args:
      logits: [..., V]; masked tokens hold -inf.
      warping: greedy returns the logits as they are, since no warp moves the argmax.

    Returns:
      float32 [..., V], -inf where masked.
    """
    logits = jnp.asarray(logits, jnp.float32)
    if warping.greedy:
        return logits

    def keep_top_k(logits: jax.Array) -> jax.Array:
        above, tied = _leading_set(logits, jnp.ones_like(logits), warping.top_k.astype(jnp.float32))
        return jnp.where(above | tied, logits, -jnp.inf)

    def keep_top_p(logits: jax.Array) -> jax.Array:
        probs = jax.nn.softmax(logits)
        above, tied = _leading_set(logits, probs, warping.top_p)
        ahead = probs.sum(-1, keepdims=True, where=above) + (jnp.cumsum(tied, axis=-1) - 1) * probs
        return jnp.where(above | (tied & (ahead < warping.top_p)), logits, -jnp.inf)

    logits = logits / warping.temperature
    filters_k = (warping.top_k > 0) & (warping.top_k < logits.shape[-1])
    logits = jax.lax.cond(filters_k, keep_top_k, lambda x: x, logits)
    return jax.lax.cond(warping.top_p < 1, keep_top_p, lambda x: x, logits)


def sample(key: jax.Array, logits: jax.Array, *, greedy: bool = False) -> jax.Array:
    """Draws one token per row from softmax(logits), or takes the argmax.

    Args:
      key: one random key, folded with the row number, or one key per row [B]; not read if greedy.
      logits: warped logits [B, V].
      greedy: take the argmax (the lowest id of a tie) instead of a draw.

    Returns:
      int32 [B].

    Raises:
      ValueError: the number of keys is neither 1 nor B.
    """
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(row_keys(key, logits.shape[0]), logits).astype(jnp.int32)


def sample_distinct(
    key: jax.Array, logits: jax.Array, count: int, *, greedy: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Draws distinct tokens per row: the first from q = softmax(logits), each further one from q without those before.

    Gumbel top-k (arXiv 1903.06059): the `count` largest of logits with Gumbel noise, in their order. The first is the
    token that `sample` draws with the same key. A probability that float32 cannot hold is 0.

    Args:
      key: one random key, folded with the row number, or one key per row [B]; not read if greedy.
      logits: warped logits [B, V].
      count: k, at most V.
      greedy: take the largest logits (the lower ids of a tie first) instead of draws.

    Returns:
      (tokens int32 [B, k], possible int32 [B] in [1, k]): how many of a row's tokens, the first ones, have a
      probability above 0.

    Raises:
      ValueError: the number of keys is neither 1 nor B.
    """
    holds = jax.nn.softmax(logits) >= jnp.finfo(jnp.float32).tiny
    logits = jnp.where(holds, logits, -jnp.inf)
    possible = jnp.minimum(jnp.sum(holds, axis=-1, dtype=jnp.int32), count)
    if greedy:
        return jax.lax.top_k(logits, count)[1].astype(jnp.int32), possible

    def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits, shape=(count,), replace=False)

    return jax.vmap(draw)(row_keys(key, logits.shape[0]), logits).astype(jnp.int32), possible


def position_keys(keys: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Random keys of each row at one of its positions.

    Folding in the position makes results independent of burst size and of the rest of the batch; it grows with every
    token, so that no noise is used twice.

    Args:
      keys: one a row [B].
      position: int32 [B], generated tokens before the one to be drawn.

    Returns:
      (keys of the draft, keys of its verification), one a row each.
    """
    folded = jax.vmap(jax.random.fold_in)(keys, position)
    draft_keys, verify_keys = jax.vmap(jax.random.split, out_axes=1)(folded)
    return draft_keys, verify_keys


@jax.jit
def _leading_set(logits: jax.Array, weights: jax.Array, amount: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the fewest leading tokens, ties taken together, whose weights sum to at least `amount`.

    Bisects the float32 numbers for the smallest logit of the set: 32 sums, where a sort of V = 128K costs far more.

    Args:
      logits: float32 [..., V].
      weights: float32 [..., V], not negative; all tokens are taken if they sum to less than `amount`.
      amount: above 0.

    Returns:
      (above, tied), bool [..., V]: the tokens ahead of the last logit of the set, and those equal to it.
    """
    # Integers in the order of the floats, -0.0 beside 0.0.
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0.0, logits), jnp.int32)
    rank = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, without overflow
        enough = weights.sum(-1, keepdims=True, where=rank >= middle) >= amount
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    last, _ = jax.lax.fori_loop(0, 32, halve, (rank.min(-1, keepdims=True), rank.max(-1, keepdims=True) + 1))
    return rank > last, rank == last
