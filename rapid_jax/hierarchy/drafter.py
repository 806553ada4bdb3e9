"""Drafts from databases alone: no drafting model, exactly lossless (HD, arXiv 2502.05609)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rapid_jax.decoding.drafter import BlockLayout, CandidateDraft, Outcome
from rapid_jax.decoding.sampling import Warping
from rapid_jax.hierarchy.lookahead import extra_tokens, lookahead_layout
from rapid_jax.hierarchy.row_databases import Hierarchy, RowDatabases
from rapid_jax.verification.candidates import share_beginnings, tree_layout


@dataclasses.dataclass(frozen=True)
class HierarchyDrafter:
    """Proposes what the databases know to follow the last tokens.

    `model` is the databases that are only read, `cache` a RowDatabases.

    Attributes:
      hierarchy: which databases, and how they are asked.
    """

    hierarchy: Hierarchy

    @property
    def gamma(self) -> int:
        return self.hierarchy.length

    @property
    def sources(self) -> tuple[str, ...]:
        return self.hierarchy.databases

    @property
    def layout(self) -> BlockLayout:
        h = self.hierarchy
        offsets, mask = tree_layout(h.rows)
        if not h.lookahead:
            return BlockLayout(offsets, mask)
        levels, verified = h.ngram - 1, len(offsets)
        extra_offsets, sees = lookahead_layout(levels, h.lookahead)
        whole = np.zeros((verified + len(sees),) * 2, bool)
        whole[:verified, :verified] = mask
        whole[verified:, 0] = sees[:, 0]
        whole[verified:, verified:] = sees[:, 1:]
        highest = len(whole) - h.lookahead + np.arange(h.lookahead)
        return BlockLayout(
            np.concatenate([offsets, extra_offsets]), whole, np.concatenate([np.arange(verified), highest])
        )

    def draft(
        self, model: dict[str, Any], cache: RowDatabases, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[CandidateDraft, tuple]:
        tokens, lengths, sources = self.hierarchy.lookup(model, cache)
        tree, lengths = share_beginnings(tokens, lengths, self.hierarchy.rows)
        batch = last_tokens.shape[0]
        extra = jnp.zeros((batch, 0), jnp.int32) if cache.grid is None else extra_tokens(cache.grid)
        return CandidateDraft(tokens, lengths, sources, extra, jnp.zeros((batch,), jnp.int32), tree), ()

    def commit(self, cache: RowDatabases, drafted: tuple, outcome: Outcome) -> RowDatabases:
        outputs = None
        if cache.grid is not None:
            outputs = jnp.argmax(outcome.extra_logits, axis=-1).astype(jnp.int32)
        return self.hierarchy.learn(cache, outcome.tokens, outcome.count, outputs)
