"""Verification of candidates: deterministic guesses at what follows, compared with what the target itself draws.

The target draws a token x behind the last committed one (at temperature 0 its argmax). Candidates that do not begin
with x are out; behind the others the target draws again, and so on, until no candidate agrees. The drawn tokens are
the output, the last of them is the bonus. Every token is a draw from the target's own distribution given what precedes
it, so that the output has the target's law exactly, greedy and sampled, whatever the candidates are (HD, arXiv
2502.05609, section 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

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


def follow_candidates(
    candidates: jax.Array, lengths: jax.Array, draw: Callable[[int, jax.Array], jax.Array]
) -> Followed:
    """Draws from the target along the candidates until none agrees.

    Args:
      candidates: int32 [B,C,m].
      lengths: int32 [B,C] in [0, m]; tokens at and beyond it are no part of a candidate.
      draw: (depth, block row int32 [B]) -> int32 [B]: what the target draws behind a token of the block, as its
        depth-th draw of this step. Row 0 is the last committed token, row 1 + c * m + j token j of candidate c.

    Returns:
      What was drawn and accepted.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    if candidates.ndim != 3 or lengths.shape != candidates.shape[:2]:
        raise ValueError(f"candidates must be [B,C,m] and lengths [B,C], got {candidates.shape} and {lengths.shape}")
    batch, _, length = candidates.shape
    alive = lengths > 0
    going = jnp.ones((batch,), bool)
    chosen = jnp.zeros((batch,), jnp.int32)
    row = jnp.zeros((batch,), jnp.int32)
    accepted = jnp.zeros((batch,), jnp.int32)
    drawn, rows = [], []
    for depth in range(length + 1):
        rows.append(row)
        drawn.append(draw(depth, row))
        if depth == length:
            break
        alive = alive & (candidates[:, :, depth] == drawn[depth][:, None]) & (depth < lengths)
        going = going & jnp.any(alive, axis=1)
        chosen = jnp.where(going, jnp.argmax(alive, axis=1).astype(jnp.int32), chosen)
        row = jnp.where(going, 1 + chosen * length + depth, row)
        accepted = accepted + going
    return Followed(jnp.stack(drawn, axis=1), accepted, chosen, jnp.stack(rows, axis=1))


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
