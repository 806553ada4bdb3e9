"""The target drafts for itself from the pages of its own cache that its attention chose.

Every few steps the first forward of a draft reads the whole context and sums up what attention each page gets, apart
for each layer and KV head; the pages with the most are copied out. Later forwards, and drafts until the next choice,
read these copies and the tail: the attention of nearby tokens goes to nearly the same places. Nothing is retrieved by
text and nothing is read a second time.

SparseSpec (arXiv 2512.01278) and Vegas (arXiv 2602.07223) choose so too, but by what a verification's tokens attend to.
Here one forward of a draft chooses in the verification's place: its attention is that of one token, which needs no room
for the scores of a whole block, and verification keeps the kernels that it has.

Positions stay those of the context, so that a draft is the target with the rest of its attention left out. The forward
that chooses is the target's own: the first token of such a draft is drawn from the target's distribution.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import Block, ContextCache, Layers, TailCache, commit
from models.decoder import hidden_states
from models.pages import Pages, chosen_shapes, take_pages
from models.sharding import context_specs
from rapid_jax.decoding.drafter import Outcome
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.programs import copied
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting.language_model import LanguageModelDrafter, Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class PagesCache(TailCache):
    """All committed tokens behind the context but the last one, and what was chosen of the context.

    Attributes:
      chosen: B rows of pages.
      mass: of each layer float32 [B,K,pages], how much attention each page got in the choices so far.
      due: int32 scalar, steps until the next choice; a draft chooses first where it is 0 or less.
    """

    chosen: ContextCache
    mass: Layers
    due: jax.Array


Choice = tuple[ContextCache, Layers, jax.Array]  # `PagesCache.chosen`, `mass` and `due`
Round = tuple[jax.Array, ContextCache, Layers, jax.Array, TailCache]  # whether to go on, and what is made in it
KEPT = 0.9  # share of the attention of earlier choices that counts in the next one


@dataclasses.dataclass(frozen=True)
class PagesDrafter(LanguageModelDrafter):
    """Draws as `LanguageModelDrafter`; `model` is the target's (params, context), the cache a `PagesCache`.

    Attributes:
      pages: that are read.
      renewal: steps from one choice to the next.
    """

    pages: Pages = dataclasses.field(kw_only=True)
    renewal: int = dataclasses.field(kw_only=True)

    def begin(
        self, model: Model, cache: TailCache, last_tokens: jax.Array, warping: Warping
    ) -> tuple[PagesCache, jax.Array, TailCache]:
        assert isinstance(cache, PagesCache)
        cache, chose, first = self.choose(model, cache, last_tokens, warping)

        def reads() -> tuple[jax.Array, TailCache]:
            return self.forward(model, cache, self.no_drafts(cache), last_tokens[:, -1:], warping)

        return cache, *(first if self.renewal == 1 else jax.lax.cond(chose, lambda: first, reads))

    def choose(
        self, model: Model, cache: PagesCache, last_tokens: jax.Array, warping: Warping, wanted: jax.Array | bool = True
    ) -> tuple[PagesCache, jax.Array, tuple[jax.Array, TailCache]]:
        """Chooses pages where that is due.

        A loop of one round or none, where a condition would copy the pages that it leaves as they are.

        Args:
          model, cache, last_tokens, warping: as `draft`.
          wanted: bool scalar, whether there will be a draft.

        Returns:
          (the cache that the draft reads, whether pages were chosen, what `forward` gives of the first token if so).
        """
        params, context = model
        assert isinstance(context, ContextCache)
        empty, newest = self.no_drafts(cache), last_tokens[:, -1:]
        due = wanted & (cache.due <= 0)

        def chooses(state: Round) -> Round:
            _, _, mass, _, _ = state
            positions = next_positions(1, context, cache)
            hidden, block = hidden_states(
                self.decoder, params, newest, positions, context, cache, page=self.pages.slots
            )
            assert block.mass is not None
            mass = tuple(new + KEPT * old for new, old in zip(block.mass, mass, strict=True))
            chosen = take_pages(context, mass, self.pages, self.decoder.mesh)
            own = commit(empty, Block(block.k, block.v), jnp.ones_like(empty.length))
            return jnp.bool_(False), chosen, mass, self.warped_logits(params, hidden[:, -1], warping), own

        nothing = jnp.zeros((newest.shape[0], self.vocab_size))
        start = (due, cache.chosen, cache.mass, nothing, empty)
        _, chosen, mass, logits, own = jax.lax.while_loop(lambda state: state[0], chooses, start)
        left = jnp.where(due, self.renewal, cache.due)
        return dataclasses.replace(cache, chosen=chosen, mass=mass, due=left), due, (logits, own)

    def forward(
        self, model: Model, cache: TailCache, drafted: TailCache, tokens: jax.Array, warping: Warping
    ) -> tuple[jax.Array, TailCache]:
        assert isinstance(cache, PagesCache)
        return super().forward((model[0], cache.chosen), cache, drafted, tokens, warping)

    def to_commit(self, cache: TailCache, drafted: TailCache) -> Choice:
        assert isinstance(cache, PagesCache)
        return cache.chosen, cache.mass, cache.due

    def commit(self, cache: TailCache, drafted: Any, outcome: Outcome) -> PagesCache:
        assert isinstance(cache, PagesCache) and outcome.block is not None  # it is on the target's devices
        own, (chosen, mass, due) = commit(cache, outcome.block, outcome.count, outcome.rows), drafted
        return PagesCache(own.k, own.v, own.length, chosen, mass, due - 1)


def begin_pages(context: ContextCache, tail: TailCache, pages: Pages, mesh: Mesh | None = None) -> PagesCache:
    """The cache before the first step, which chooses.

    Args:
      context: of prefill_context.
      tail: the questions behind it, without their last token; it is copied.
      pages: that will be chosen.
      mesh: the target's.
    """
    specs = context_specs(len(tail.length))

    def zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
        device = None if mesh is None else NamedSharding(mesh, specs[len(shape.shape)])
        return jnp.zeros(shape.shape, shape.dtype, device=device)

    chosen, mass = jax.tree.map(zeros, chosen_shapes(context, len(tail.length), pages))
    own, due = copied(tail), hosts.put(np.asarray(0, np.int32), None if mesh is None else NamedSharding(mesh, P()))
    return PagesCache(own.k, own.v, own.length, chosen, mass, due)
