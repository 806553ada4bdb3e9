"""No draft at all: the step then decodes one token at a time."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rapid_jax.decoding.drafter import BlockLayout, ChainDraft, Outcome, chain_layout
from rapid_jax.decoding.sampling import Warping


@dataclasses.dataclass(frozen=True)
class NullDrafter:
    """Proposes nothing, so that plain decoding is the speculative step with a draft of length 0.

    Attributes:
      vocab_size: V, the size of the (empty) distributions.
    """

    vocab_size: int
    gamma: int = 0
    sources: tuple[str, ...] = ()

    @property
    def layout(self) -> BlockLayout:
        return chain_layout(0)

    def draft(
        self, model: tuple, cache: tuple, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[ChainDraft, tuple]:
        batch = last_tokens.shape[0]
        none = jnp.zeros((batch,), jnp.int32)
        return ChainDraft(jnp.zeros((batch, 0), jnp.int32), jnp.zeros((batch, 0, self.vocab_size)), none, none), ()

    def commit(self, cache: tuple, drafted: tuple, outcome: Outcome) -> tuple:
        return cache
