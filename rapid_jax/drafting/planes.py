"""The target drafts for itself over the upper plane of its own keys and values (QuantSpec, arXiv 2502.10424).

The cache is read in four of its eight bits, the same slots in the same places: nothing is copied, chosen or read twice.
A draft sees the whole document, only less precisely, so that it is kept more often than one over a part of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from models.cache import ContextCache, TailCache, commit
from rapid_jax.decoding.drafter import Outcome
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting.language_model import LanguageModelDrafter, Model


@dataclasses.dataclass(frozen=True)
class PlanesDrafter(LanguageModelDrafter):
    """Draws as `LanguageModelDrafter`; `model` is the target's (params, context).

    The cache holds all committed tokens behind the context but the last one, as the target computed them.
    """

    def begin(
        self, model: Model, cache: TailCache, last_tokens: jax.Array, warping: Warping
    ) -> tuple[TailCache, jax.Array, TailCache]:
        return cache, *self.forward(model, cache, self.no_drafts(cache), last_tokens[:, -1:], warping)

    def read(
        self, model: Model, cache: TailCache, drafted: TailCache, tokens: jax.Array
    ) -> tuple[jax.Array, TailCache]:
        params, context = model
        assert isinstance(context, ContextCache)
        return super().read((params, context.upper), cache, drafted, tokens)

    def commit(self, cache: TailCache, drafted: Any, outcome: Outcome) -> TailCache:
        assert outcome.block is not None  # it is on the target's devices
        return commit(cache, outcome.block, outcome.count, outcome.rows)
