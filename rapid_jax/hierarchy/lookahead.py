"""The lookahead window: guesses at later tokens that are refined in parallel and yield n-grams (arXiv 2402.02057).

A grid of n - 1 levels and W columns rides on every verify forward. The token at level l of column c stands l + c
positions behind the last committed token, which is itself the token at level 0 of column 0. It sees level 0 up to its
own column, and the lower levels of its column: a Jacobi iteration's older guess, and what was made of it since. What
the model says behind the highest level completes an n-gram in every column. Then level 0 is dropped, the levels move
down, and the new tokens are the highest level; every token now stands one position later, as the text has moved by at
least one.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def seed_grid(tokens: Sequence[int], *, levels: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """The grid before the first step: a run of consecutive tokens of the prompt in every column.

    Args:
      tokens: the prompt.
      levels, columns: n - 1 and W.
      rng: chooses the runs.

    Returns:
      int32 [levels,columns].
    """
    starts = rng.integers(0, max(len(tokens) - levels + 1, 1), columns)
    index = (starts[None, :] + np.arange(levels)[:, None]) % len(tokens)
    return np.asarray(tokens, np.int32)[index]


def extra_tokens(grid: jax.Array) -> jax.Array:
    """The grid [B,L,W] as the tokens [B,L*W-1] behind the last committed one, level by level."""
    return grid.reshape(grid.shape[0], -1)[:, 1:]


def lookahead_layout(levels: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int [X] behind the last committed token; bool [X,1+X], what the window's tokens see of it and each other.

    X = levels * columns - 1; the last committed token, which stands in the grid's corner, comes first in the mask.
    """
    level, column = (axis.reshape(-1) for axis in np.indices((levels, columns)))
    first = level[None, :] == 0
    same_column = column[None, :] == column[:, None]
    sees = (first & (column[None, :] <= column[:, None])) | (same_column & (level[None, :] <= level[:, None]))
    return (level + column)[1:], sees[1:]


def completed(grid: jax.Array, last_tokens: jax.Array, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The n-grams that a step has completed, and the next grid.

    Args:
      grid: int32 [B,L,W].
      last_tokens: int32 [B], the committed token in its corner during the step.
      outputs: int32 [B,W], what the model says behind the highest level.

    Returns:
      (n-grams int32 [B,W,L+1], grid).
    """
    grid = grid.at[:, 0, 0].set(last_tokens)
    grown = jnp.concatenate([grid, outputs[:, None]], axis=1)
    return jnp.swapaxes(grown, 1, 2), grown[:, 1:]
