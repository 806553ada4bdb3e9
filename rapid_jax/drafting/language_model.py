"""A language model that drafts: RAPID's drafter, when its context is the retrieved part of the document."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from models.cache import Block, KVCache, TailCache, commit
from models.decoder import Decoder, hidden_states, output_logits
from rapid_jax.decoding.drafter import Alternatives, BlockLayout, ChainDraft, Outcome, chain_layout, comb_layout
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import Warping, sample, sample_distinct, warp_logits

Model = tuple[dict, KVCache]  # parameters and context


@dataclasses.dataclass(frozen=True)
class LanguageModelDrafter:
    """Draws gamma tokens one after another (RAPID, arXiv 2502.20330, Algorithm 1, lines 3-6).

    The tail holds the keys and values of every committed token but the last two. The first forward takes those two:
    after a fully accepted draft neither has been through the drafter yet; otherwise the first of them is computed
    again, which keeps the shape static. While drafting the tail is only read, and new keys and values go to a cache of
    gamma + 1 slots: a loop that writes to a cache it also reads would copy it in every round.

    An accepted alternative was never read by the drafter, and need not have been: it and the token drawn behind it are
    then the last two.

    Attributes:
      decoder: the model; `model` is its (params, ContextCache).
      gamma: tokens a draft.
      vocab_size: V of the target; the drafter's own may be padded to another size (Qwen2.5 of 3B and of 7B).
      first_candidates: k, tokens drawn without replacement for the first position: the chain's and k - 1 alternatives.
    """

    decoder: Decoder
    gamma: int
    vocab_size: int
    first_candidates: int = 1
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.first_candidates <= self.vocab_size:
            raise ValueError(
                f"first_candidates must be between 1 and the vocabulary's {self.vocab_size} tokens, "
                f"got {self.first_candidates}"
            )

    @property
    def layout(self) -> BlockLayout:
        if self.first_candidates == 1:
            return chain_layout(self.gamma)
        return comb_layout(self.gamma, self.first_candidates - 1)

    def draft(
        self, model: Model, cache: TailCache, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[ChainDraft, Any]:
        def one(carry: tuple[TailCache, jax.Array], index: jax.Array) -> tuple[tuple, tuple]:
            drafted, token = carry
            logits, drafted = self.forward(model, cache, drafted, token[:, None], warping)
            token = self.draw(keys, index, logits, warping)
            return (drafted, token), (token, jax.nn.softmax(logits))

        cache, logits, drafted = self.begin(model, cache, last_tokens, warping)
        first, alternatives = self.draw_first(keys, logits, warping)
        (drafted, _), (tokens, probs) = jax.lax.scan(one, (drafted, first), jnp.arange(1, self.gamma, dtype=jnp.int32))
        tokens = jnp.concatenate([first[None], tokens])
        probs = jnp.concatenate([jax.nn.softmax(logits)[None], probs])
        whole = jnp.full(last_tokens.shape[:1], self.gamma, jnp.int32)
        draft = ChainDraft(jnp.swapaxes(tokens, 0, 1), jnp.swapaxes(probs, 0, 1), whole, whole, alternatives)
        return draft, self.to_commit(cache, drafted)

    def begin(
        self, model: Model, cache: TailCache, last_tokens: jax.Array, warping: Warping
    ) -> tuple[TailCache, jax.Array, TailCache]:
        """The first forward of a draft: (the cache that the others read, its logits, see `forward`; `drafted`)."""
        return cache, *self.forward(model, cache, self.no_drafts(cache), last_tokens, warping)

    def to_commit(self, cache: TailCache, drafted: TailCache) -> Any:
        """What `commit` needs of a draft that was read over this cache and left these keys and values."""
        return Block(drafted.k, drafted.v)

    def commit(self, cache: TailCache, drafted: Any, outcome: Outcome) -> TailCache:
        return commit(cache, drafted, outcome.count)

    def no_drafts(self, cache: TailCache) -> TailCache:
        """An empty cache of gamma + 1 slots beside the tail."""

        def empty(layer: jax.Array) -> jax.Array:
            return jnp.zeros_like(layer, shape=(*layer.shape[:2], self.gamma + 1, layer.shape[3]))

        return TailCache(tuple(map(empty, cache.k)), tuple(map(empty, cache.v)), jnp.zeros_like(cache.length))

    def forward(
        self, model: Model, cache: TailCache, drafted: TailCache, tokens: jax.Array, warping: Warping
    ) -> tuple[jax.Array, TailCache]:
        """Reads tokens behind the context, the tail and what is drafted so far.

        Args:
          model, cache: as `draft`.
          drafted: keys and values of this draft so far.
          tokens: int32 [B,T].
          warping: of the logits.

        Returns:
          (warped logits float32 [B,V] behind the last of the tokens, `drafted` with the tokens appended).
        """
        hidden, drafted = self.read(model, cache, drafted, tokens)
        return self.warped_logits(model[0], hidden[:, -1], warping), drafted

    def read(
        self, model: Model, cache: TailCache, drafted: TailCache, tokens: jax.Array
    ) -> tuple[jax.Array, TailCache]:
        """As `forward`, with the hidden states [B,T,D] in the place of logits."""
        params, context = model
        positions = next_positions(tokens.shape[1], context, cache, drafted)
        known = jnp.minimum(tokens, self.decoder.config.vocab_size - 1)  # an id of the target's padding is not
        hidden, block = hidden_states(self.decoder, params, known, positions, context, cache, drafted)
        return hidden, commit(drafted, block, jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32))

    def warped_logits(self, params: dict, hidden: jax.Array, warping: Warping) -> jax.Array:
        """Logits whose softmax is q, over the target's vocabulary.

        Args:
          params: the model's parameters.
          hidden: its hidden states [B,...,D].
          warping: see there.

        Returns:
          float32 [B,...,V], warped; ids that only the drafter has are cut off, those that only the target has are -inf.
        """
        logits = output_logits(self.decoder, params, hidden)[..., : self.vocab_size]
        missing = self.vocab_size - logits.shape[-1]
        logits = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, missing)], constant_values=-jnp.inf)
        return warp_logits(logits, warping)

    def draw(self, keys: jax.Array, index: jax.Array, logits: jax.Array, warping: Warping) -> jax.Array:
        """The draft's token int32 [B] of place `index` (int32 scalar), from its warped logits [B,V]."""
        return sample(_place_keys(keys, index), logits, greedy=warping.greedy)

    def draw_first(self, keys: jax.Array, logits: jax.Array, warping: Warping) -> tuple[jax.Array, Alternatives | None]:
        """The chain's first token int32 [B], from its warped logits [B,V], and the alternatives to it."""
        index = jnp.int32(0)
        if self.first_candidates == 1:
            return self.draw(keys, index, logits, warping), None
        tokens, possible = sample_distinct(
            _place_keys(keys, index), logits, self.first_candidates, greedy=warping.greedy
        )
        return tokens[:, 0], Alternatives(tokens[:, 1:], possible - 1)


def _place_keys(keys: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
