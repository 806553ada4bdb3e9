"""The drafting source chosen step by step: nothing, a copy, or the target over pages of its own cache.

All of it is lossless and needs neither a second prefill nor retrieval. Copies cost nothing to make and are as good as
the text repeats itself; the target's own drafts cost forwards and are good anywhere. Which is faster depends
on the length of the context, on the batch and on what the text does just now, so every step decides anew: by costs that
were measured before the answer, and by the share of tokens that each source has got right so far.

Drafts of the target are verified as copies are, by equality with what the target draws: greedy they are accepted as by
the ratio test, sampled less often.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.cache import ContextCache, TailCache
from rapid_jax.copying import drafter as copying
from rapid_jax.copying import trust
from rapid_jax.copying.drafter import CopyDraft, CopyDrafter, CopyMemory
from rapid_jax.decoding.drafter import BlockLayout, CandidateDraft, Outcome, Pace
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting.pages import Choice, PagesCache, PagesDrafter

Model = tuple[Pace, dict, ContextCache]  # costs, the drafting model's parameters, the target's context


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class AutoCache:
    """What a row knows.

    Attributes:
      copy: to copy from.
      pages: of the target's own cache.
      right, seen: float32 [B], the target's own drafted tokens that were kept, and those that were compared.
    """

    copy: CopyMemory
    pages: PagesCache
    right: jax.Array
    seen: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class AutoDraft:
    """Of one draft: what would be copied, the target's own tokens int32 [B,n], how many of them were drafted, pages."""

    copy: CopyDraft
    tokens: jax.Array
    drafted: jax.Array
    pages: Choice


@dataclasses.dataclass(frozen=True)
class AutoDrafter:
    """Chooses among no draft, copies of `copy.lengths` and own drafts of `lengths`, in this order of a Pace's costs.

    Attributes:
      copy: makes the copies.
      own: the target over its pages; its gamma is the longest own draft.
      lengths: of own drafts, growing; each is also a length of copies, so that they share a verification.
    """

    copy: CopyDrafter
    own: PagesDrafter
    lengths: tuple[int, ...]
    sources: tuple[str, ...] = (*copying.SOURCES, "own cache")

    @property
    def gamma(self) -> int:
        return self.copy.gamma

    @property
    def layout(self) -> BlockLayout:
        return self.copy.layout

    @property
    def paces(self) -> tuple[Any, ...]:
        """Drafters of each length of copies, from none on; they are asked for their layout and sources alone."""
        return tuple(dataclasses.replace(self, copy=pace) for pace in self.copy.paces)

    @property
    def ways(self) -> int:
        """How many costs there are."""
        return 1 + len(self.copy.lengths) + len(self.lengths)

    def initial_cache(self, copy: CopyMemory, pages: PagesCache, acceptance: float) -> AutoCache:
        """Before the first step, with the acceptance that is expected of own drafts."""
        seen = jnp.full_like(pages.length, trust.PRIOR_WEIGHT, jnp.float32)
        return AutoCache(copy, pages, seen * acceptance, seen)

    def draft(
        self, model: Model, cache: AutoCache, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[CandidateDraft, AutoDraft]:
        pace, params, context = model
        batch, copies = last_tokens.shape[0], len(self.copy.lengths)
        # Choose: the way that is worth most, for all rows together.
        copy, kept = self.copy.propose(cache.copy)
        rate = (cache.right / cache.seen)[:, None]
        own = jnp.cumsum(rate ** jnp.arange(1, max(self.lengths) + 1)[None, :], axis=1)[:, np.asarray(self.lengths) - 1]
        kept = jnp.concatenate([kept, own], axis=1)
        way = pace.choose(trust.best_way(kept, ~cache.copy.ended, pace.costs, cache.copy.speed, copies=copies))
        drafted = jnp.asarray((*(0,) * (1 + copies), *self.lengths))[way]

        # Draft: as many forwards over the pages as the chosen length says. A loop of one round, or none where nothing
        # is drawn: a condition would copy the pages that it leaves as they are.
        read = (params, context)

        def draws(state: tuple[jax.Array, PagesCache, jax.Array]) -> tuple[jax.Array, PagesCache, jax.Array]:
            _, pages, tokens = state
            return jnp.bool_(False), *self._draw(read, pages, tokens, drafted, last_tokens, keys, warping)

        start = (drafted > 0, cache.pages, jnp.zeros((batch, self.gamma), jnp.int32))
        _, pages, tokens = jax.lax.while_loop(lambda state: state[0], draws, start)
        is_own = way > copies
        width = jnp.asarray((*range(1 + copies), *map((0, *self.copy.lengths).index, self.lengths)))[way]
        copied = jnp.where(copy.matched > 0, jnp.asarray((0, *self.copy.lengths))[width], 0)
        draft = CandidateDraft(
            tokens=jnp.where(is_own, tokens, copy.tokens)[:, None],
            lengths=jnp.where(is_own, drafted, copied)[:, None].astype(jnp.int32),
            sources=jnp.where(is_own, len(copying.SOURCES), cache.copy.source(copy))[:, None],
            extra=jnp.zeros((batch, 0), jnp.int32),
            forwards=jnp.broadcast_to(drafted.astype(jnp.int32), (batch,)),
            pace=width.astype(jnp.int32),
        )
        spent = CopyDraft(copy, pace.costs[way])
        left = pages.chosen, pages.mass, pages.due
        return draft, AutoDraft(spent, tokens, jnp.broadcast_to(drafted, (batch,)), left)

    def _draw(
        self,
        read: tuple[dict, ContextCache],
        pages: PagesCache,
        tokens: jax.Array,
        count: jax.Array,
        last_tokens: jax.Array,
        keys: jax.Array,
        warping: Warping,
    ) -> tuple[PagesCache, jax.Array]:
        """The target's own draft: the cache with what was chosen, and the first `count` of `tokens` [B,gamma] drawn."""
        pages, chose, first = self.own.choose(read, pages, last_tokens, warping)

        def put(tokens: jax.Array, index: jax.Array, logits: jax.Array) -> jax.Array:
            token = self.own.draw(keys, index, logits, warping)[:, None]
            return jax.lax.dynamic_update_slice_in_dim(tokens, token, index, axis=1)

        def once(state: tuple[jax.Array, TailCache, jax.Array]) -> tuple[jax.Array, TailCache, jax.Array]:
            index, so_far, tokens = state
            before = jax.lax.dynamic_slice_in_dim(tokens, jnp.maximum(index - 1, 0), 1, axis=1)
            newest = jnp.where(index > 0, before, last_tokens[:, -1:])
            logits, so_far = self.own.forward(read, pages, so_far, newest, warping)
            return index + 1, so_far, put(tokens, index, logits)

        begun = (jnp.int32(1), first[1], put(tokens, jnp.int32(0), first[0]))
        start = jax.lax.cond(chose, lambda: begun, lambda: (jnp.int32(0), self.own.no_drafts(pages), tokens))
        _, _, tokens = jax.lax.while_loop(lambda state: state[0] < count, once, start)
        return pages, tokens

    def commit(self, cache: AutoCache, drafted: AutoDraft, outcome: Outcome) -> AutoCache:
        place = jnp.arange(self.gamma)[None, :]
        there = (place < outcome.count[:, None]) & (place < drafted.drafted[:, None])
        right = jnp.cumprod((drafted.tokens == outcome.tokens[:, : self.gamma]) & there, axis=1)
        seen = jnp.pad(right[:, :-1], ((0, 0), (1, 0)), constant_values=1) * there
        return AutoCache(
            self.copy.commit(cache.copy, drafted.copy, outcome),
            self.own.commit(cache.pages, drafted.pages, outcome),
            cache.right + jnp.sum(right, axis=1),
            cache.seen + jnp.sum(seen, axis=1),
        )
