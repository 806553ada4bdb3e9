"""A language model that drafts: RAPID's drafter, when its context is the retrieved part of the document."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from models.cache import Block, ContextCache, TailCache, commit
from models.decoder import Decoder, hidden_states, output_logits
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import sample, warp_logits
from rapid_jax.drafting.base import BlockLayout, ChainDraft, Outcome, chain_layout


@dataclasses.dataclass(frozen=True)
class LanguageModelDrafter:
    """Draws gamma tokens one after another (RAPID, arXiv 2502.20330, Algorithm 1, lines 3-6).

    The tail holds the keys and values of every committed token but the last two. The first forward takes those two:
    after a fully accepted draft neither has been through the drafter yet; otherwise the first of them is computed
    again, which keeps the shape static. While drafting the tail is only read, and new keys and values go to a cache of
    gamma + 1 slots: a loop that writes to a cache it also reads would copy it in every round.

    Attributes:
      decoder: the model; `model` is its (params, ContextCache).
      gamma: tokens a draft.
      vocab_size: V of the target; the drafter's own may be padded to another size (Qwen2.5 of 3B and of 7B).
      temperature, top_k, top_p: the warping, the target's own.
    """

    decoder: Decoder
    gamma: int
    vocab_size: int
    temperature: float
    top_k: int
    top_p: float
    sources: tuple[str, ...] = ()

    @property
    def layout(self) -> BlockLayout:
        return chain_layout(self.gamma)

    def draft(
        self, model: tuple[dict, ContextCache], cache: TailCache, last_tokens: jax.Array, keys: jax.Array
    ) -> tuple[ChainDraft, Block]:
        params, context = model

        def forward(drafted: TailCache, tokens: jax.Array) -> tuple[jax.Array, TailCache]:
            caches = (context, cache, drafted)
            positions = next_positions(tokens.shape[1], *caches)
            known = jnp.minimum(tokens, self.decoder.config.vocab_size - 1)  # an id of the target's padding is not
            hidden, block = hidden_states(self.decoder, params, known, positions, *caches)
            logits = self._fit(output_logits(self.decoder, params, hidden[:, -1]))
            warped = warp_logits(logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
            return warped, commit(drafted, block, jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32))

        def draw(index: jax.Array, logits: jax.Array) -> jax.Array:
            own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            return sample(own, logits, greedy=self.temperature == 0)

        def one(carry: tuple[TailCache, jax.Array], index: jax.Array) -> tuple[tuple, tuple]:
            drafted, token = carry
            logits, drafted = forward(drafted, token[:, None])
            token = draw(index, logits)
            return (drafted, token), (token, jax.nn.softmax(logits))

        logits, drafted = forward(self._no_drafts(cache), last_tokens)
        first = draw(jnp.int32(0), logits)
        (drafted, _), (tokens, probs) = jax.lax.scan(one, (drafted, first), jnp.arange(1, self.gamma, dtype=jnp.int32))
        tokens = jnp.concatenate([first[None], tokens])
        probs = jnp.concatenate([jax.nn.softmax(logits)[None], probs])
        all_of_them = jnp.full(last_tokens.shape[:1], self.gamma, jnp.int32)
        draft = ChainDraft(jnp.swapaxes(tokens, 0, 1), jnp.swapaxes(probs, 0, 1), all_of_them, all_of_them)
        return draft, Block(drafted.k, drafted.v)

    def _no_drafts(self, cache: TailCache) -> TailCache:
        """An empty cache of gamma + 1 slots beside the tail."""

        def empty(layer: jax.Array) -> jax.Array:
            return jnp.zeros_like(layer, shape=(*layer.shape[:2], self.gamma + 1, layer.shape[3]))

        return TailCache(tuple(map(empty, cache.k)), tuple(map(empty, cache.v)), jnp.zeros_like(cache.length))

    def _fit(self, logits: jax.Array) -> jax.Array:
        """Logits [B,V of the drafter] over the target's V: padding ids are cut off, or impossible."""
        missing = max(self.vocab_size - logits.shape[-1], 0)
        return jnp.pad(logits[:, : self.vocab_size], ((0, 0), (0, missing)), constant_values=-jnp.inf)

    def commit(self, cache: TailCache, drafted: Block, outcome: Outcome) -> TailCache:
        return commit(cache, drafted, outcome.count)
