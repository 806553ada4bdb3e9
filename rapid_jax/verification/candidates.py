"""Verification of candidates: deterministic guesses at what follows, compared with what the target itself draws.

The target draws a token x behind the last committed one (at temperature 0 its argmax). Candidates that do not begin
with x are out; behind the others the target draws again, and so on, until no candidate agrees. The drawn tokens are
the output, the last of them is the bonus. Every token is a draw from the target's own distribution given what precedes
it, so that the output has the target's law exactly, greedy and sampled, whatever the candidates are (HD, arXiv
2502.05609, section 3).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Followed:
    """Where the candidates led.

    Attributes:
      tokens: int32 [B,m+1], the drawn tokens; the first num_accepted + 1 of each row are output.
      num_accepted: int32 [B], tokens of candidates that were drawn.
      chosen: int32 [B], the candidate that was followed to the end, the first of several; 0 if none was accepted.
      rows: int32 [B,m+1], the block row that each token was drawn behind; the first num_accepted + 1 are the last
        committed token and the accepted ones.
    """

    tokens: jax.Array
    num_accepted: jax.Array
    chosen: jax.Array
    rows: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Tree:
    """Candidates in the R rows of a verify block behind the last committed token, which is row 0.

    Candidates that begin alike lie in the same rows there (a token tree, SpecInfer, arXiv 2305.09781).

    Attributes:
      tokens: int32 [B,R]; a row that holds none is never read.
      depths: int32 [B,R], positions behind the last committed token.
      sees: bool [B,R,R], what each row sees of the others: what precedes it in its candidates, and itself.
      rows: int32 [B,C,m] in [0,R], the block row of each candidate's tokens; 0 for those that have none.
    """

    tokens: jax.Array
    depths: jax.Array
    sees: jax.Array
    rows: jax.Array

    def laid_into(self, offsets: np.ndarray, mask: np.ndarray, before: int = 0) -> tuple[jax.Array, jax.Array]:
        """The offsets [B,T] and the mask [B,T,T] of a block that holds this tree behind row `before`.

        Args:
          offsets: int [T], positions behind the block's first row; those of the tree's rows are replaced.
          mask: bool [T,T], what each row sees; what the tree's rows see of each other is replaced.
          before: the row of the last committed token.
        """
        batch, size = self.tokens.shape
        own = slice(before + 1, before + 1 + size)
        wide = jnp.broadcast_to(jnp.asarray(offsets, jnp.int32), (batch, *offsets.shape))
        seen = jnp.broadcast_to(jnp.asarray(mask), (batch, *mask.shape))
        return wide.at[:, own].set(before + self.depths), seen.at[:, own, own].set(self.sees)


def share_beginnings(candidates: jax.Array, lengths: jax.Array, rows: int) -> tuple[Tree, jax.Array]:
    """Candidates in as few rows as they have different beginnings; what does not fit is cut off, the last ones first.

    Args:
      candidates: int32 [B,C,m].
      lengths: int32 [B,C] in [0, m].
      rows: R, those that there are.

    Returns:
      (the tree, int32 [B,C] tokens of each candidate that have a row).
    """
    batch, count, length = candidates.shape
    there = jnp.arange(length)[None, None, :] < lengths[..., None]
    equal = (candidates[:, :, None] == candidates[:, None]) & there[:, None]
    first = jnp.argmax(jnp.cumprod(equal, axis=-1), axis=2)  # the first candidate that begins alike, [B,C,m]
    is_first = there & (first == jnp.arange(count)[None, :, None])
    rank = jnp.cumsum(is_first.reshape(batch, -1), axis=1, dtype=jnp.int32).reshape(is_first.shape)
    own = jnp.where(is_first & (rank <= rows), rank, 0)
    held = jnp.where(there, jnp.take_along_axis(own, first, axis=1), 0)
    slots = jnp.where(own > 0, own - 1, rows).reshape(batch, -1)

    def in_rows(values: jax.Array) -> jax.Array:
        return place(values.reshape(batch, count * length, *values.shape[3:]), slots, rows)

    depths = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.int32), candidates.shape)
    path = held[..., None] == jnp.arange(1, rows + 1)[None, None, None, :]  # [B,C,m,R]
    sees = jnp.cumsum(path, axis=2) > 0
    tree = Tree(in_rows(candidates), in_rows(depths), in_rows(sees), held)
    return tree, jnp.sum(jnp.cumprod(held > 0, axis=-1), axis=-1, dtype=jnp.int32)


def place(values: jax.Array, slots: jax.Array, size: int) -> jax.Array:
    """Values [B,n,...] moved to slots int32 [B,n] of an array of zeros [B,size,...]; a slot of `size` drops them."""
    batch = jnp.arange(values.shape[0])[:, None]
    empty = jnp.zeros((values.shape[0], size, *values.shape[2:]), values.dtype)
    return empty.at[batch, slots].set(values, mode="drop")


def tree_layout(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int [1+R] and mask bool [1+R,1+R] of the last committed token and R rows that a Tree is laid into."""
    mask = np.eye(1 + rows, dtype=bool)
    mask[:, 0] = True
    return np.zeros(1 + rows, int), mask


def follow_candidates(candidates: jax.Array, lengths: jax.Array, rows: jax.Array, drawn: jax.Array) -> Followed:
    """Follows the target's draws along the candidates until none agrees.

    Args:
      candidates: int32 [B,C,m].
      lengths: int32 [B,C] in [0, m]; tokens at and beyond it are no part of a candidate.
      rows: int32 [B,C,m] in [0, R], the block row of each token; equal beginnings share theirs (`share_beginnings`), so
        that candidates that begin alike are not told apart by rounding.
      drawn: int32 [B,1+R], what the target draws behind every block row, with the same noise in all rows of one depth.
        Row 0 is the last committed token.

    Returns:
      What was drawn and accepted.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    batch, _, length = candidates.shape if candidates.ndim == 3 else (0, 0, 0)
    if lengths.shape != candidates.shape[:2] or rows.shape != candidates.shape or drawn.shape[:-1] != (batch,):
        raise ValueError(
            f"candidates and rows must be [B,C,m], lengths [B,C] and drawn [B,1+R], got {candidates.shape}, "
            f"{rows.shape}, {lengths.shape} and {drawn.shape}"
        )
    rows = jnp.pad(rows, ((0, 0), (0, 0), (1, 0))).astype(jnp.int32)  # [B,C,m+1], the last committed token first
    tokens = jnp.take_along_axis(drawn, rows.reshape(batch, -1), axis=1).reshape(rows.shape)
    agrees = (candidates == tokens[..., :length]) & (jnp.arange(length)[None, None, :] < lengths[..., None])
    accepted = jnp.sum(jnp.cumprod(agrees, axis=-1), axis=-1, dtype=jnp.int32)
    chosen = jnp.argmax(accepted, axis=1).astype(jnp.int32)

    def of_chosen(values: jax.Array) -> jax.Array:
        index = chosen.reshape(batch, 1, *[1] * (values.ndim - 2))
        return jnp.take_along_axis(values, index, axis=1)[:, 0]

    return Followed(of_chosen(tokens), of_chosen(accepted), chosen, of_chosen(rows))
