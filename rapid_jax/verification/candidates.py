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


def row_depths(candidates: int, length: int) -> np.ndarray:
    """Draws of a step before the one behind each block row, int [1+C*m]."""
    return np.concatenate([[0], np.tile(np.arange(1, length + 1), candidates)])


def follow_candidates(candidates: jax.Array, lengths: jax.Array, drawn: jax.Array) -> Followed:
    """Follows the target's draws along the candidates until none agrees.

    Args:
      candidates: int32 [B,C,m].
      lengths: int32 [B,C] in [0, m]; tokens at and beyond it are no part of a candidate.
      drawn: int32 [B,1+C*m], what the target draws behind every block row, with the same noise in all rows of one depth
        (`row_depths`). Row 0 is the last committed token, row 1 + c * m + j token j of candidate c. Of rows behind
        equal tokens, whose draws differ by rounding at most, the first one counts.

    Returns:
      What was drawn and accepted.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    batch, count, length = candidates.shape if candidates.ndim == 3 else (0, 0, 0)
    if lengths.shape != candidates.shape[:2] or drawn.shape != (batch, 1 + count * length):
        raise ValueError(
            f"candidates must be [B,C,m], lengths [B,C] and drawn [B,1+C*m], got {candidates.shape}, {lengths.shape} "
            f"and {drawn.shape}"
        )
    alike = jnp.cumprod(candidates[:, :, None] == candidates[:, None], axis=-1)  # [B,C,C,m], equal up to a token
    rows = 1 + jnp.argmax(alike, axis=2) * length + jnp.arange(length)[None, None, :]
    rows = jnp.pad(rows, ((0, 0), (0, 0), (1, 0))).astype(jnp.int32)  # [B,C,m+1], the last committed token first
    tokens = jnp.take_along_axis(drawn, rows.reshape(batch, -1), axis=1).reshape(rows.shape)
    agrees = (candidates == tokens[..., :length]) & (jnp.arange(length)[None, None, :] < lengths[..., None])
    accepted = jnp.sum(jnp.cumprod(agrees, axis=-1), axis=-1, dtype=jnp.int32)
    chosen = jnp.argmax(accepted, axis=1).astype(jnp.int32)

    def of_chosen(values: jax.Array) -> jax.Array:
        index = chosen.reshape(batch, 1, *[1] * (values.ndim - 2))
        return jnp.take_along_axis(values, index, axis=1)[:, 0]

    return Followed(of_chosen(tokens), of_chosen(accepted), chosen, of_chosen(rows))


def candidate_mask(candidates: int, length: int) -> np.ndarray:
    """What each of the 1 + C * m block rows sees, bool [T,T]: the last token, and its own candidate up to itself.

    Two candidates of two tokens, behind the last token:

        x . . . .
        x x . . .
        x x x . .
        x . . x .
        x . . x x
    """
    mask = np.kron(np.eye(candidates, dtype=bool), np.tril(np.ones((length, length), bool)))
    mask = np.pad(mask, ((1, 0), (1, 0)))
    mask[:, 0] = True
    return mask
