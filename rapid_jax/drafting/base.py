"""The drafter contract: three pure functions that run inside the jitted step."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Draft:
    """Proposed tokens and the distributions that they were drawn from.

    Attributes:
      tokens: int32 [B,gamma].
      probs: q, float32 [B,gamma,V], after the same warping as the target's.
    """

    tokens: jax.Array
    probs: jax.Array


class Drafter(Protocol):
    """Makes drafts. Implementations are frozen, hashable dataclasses: they are static arguments of the compiled step.

    `model` is whatever the drafter only reads (parameters, a frozen context); `cache` is what it keeps between steps.
    """

    @property
    def gamma(self) -> int:
        """Tokens drafted in a step."""
        ...

    def draft(self, model: Any, cache: Any, last_tokens: jax.Array, keys: jax.Array) -> tuple[Draft, Any]:
        """Drafts gamma tokens for every row; returns them and what `commit` needs of the drafter's work.

        Args:
          model, cache: the drafter's own.
          last_tokens: int32 [B,2], the two newest committed tokens of each row.
          keys: one random key a row [B], new in every step.
        """
        ...

    def commit(self, cache: Any, drafted: Any, count: jax.Array) -> Any:
        """The cache once `count` [B] tokens were committed, given the second result of `draft`."""
        ...
