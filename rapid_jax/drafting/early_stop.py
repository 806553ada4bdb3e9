"""Early draft stop: a row's draft ends where its next tokens would hardly be accepted. There are two rules.

By entropy (AdaEDL, arXiv 2410.18351): the acceptance of a token drawn from q has the lower bound 1 - sqrt(0.2 H(q)), H
the entropy in nats. After a token is drawn, the draft goes on only if the bound of the distribution that it was drawn
from is at least a threshold lambda: a token that will be rejected takes what follows it along. So q is the newest
distribution that the drafter has computed, the first token is always drafted, and the doubtful token itself is kept,
because it costs no further forward. Lambda follows the acceptance of the row's own drafts.

By confidence (the rule of transformers' assisted generation, which RAPID's published evaluation uses with 0.1): the
draft goes on only if q gave the drafted token at least a fixed probability. The doubtful token is kept here too.

q is what the acceptance test knows as q, after temperature, top-k and top-p; at temperature 0 the softmax at 1.

The drafted tokens that are proposed keep their distribution under both rules, because stopping looks at no token behind
the last one: what is lossless (eta = 0) stays lossless. At eta > 0 the token behind a whole draft is drawn from p:
no q is there, and shorter drafts transfer less, as a smaller gamma does.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from models.cache import TailCache
from rapid_jax.decoding.drafter import BlockLayout, ChainDraft, Outcome
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting.language_model import LanguageModelDrafter, Model

ENTROPY_WEIGHT = 0.2  # per nat
TARGET_RATE = 0.9
RATE_MEMORY = 0.5
THRESHOLD_MEMORY = 0.9
THRESHOLD_STEP = 0.01


def acceptance_bound(probs: jax.Array) -> jax.Array:
    """1 - sqrt(0.2 H(q)) of distributions q [..., V], float32 [...]; below 0 where the entropy exceeds 5 nats."""
    return 1 - jnp.sqrt(ENTROPY_WEIGHT * jnp.sum(jax.scipy.special.entr(probs), axis=-1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class StopState:
    """What a row has learned from its drafts.

    Attributes:
      rate: AR, float32 [B], moving average of the accepted share of a draft.
      threshold: lambda, float32 [B]; infinite for a row that has ended, which then does not keep the others drafting.
    """

    rate: jax.Array
    threshold: jax.Array

    def after(self, accepted: jax.Array, drafted: jax.Array) -> StopState:
        """The state after a draft of `drafted` tokens, of which `accepted` were accepted; both int32 [B]."""
        rate = RATE_MEMORY * self.rate + (1 - RATE_MEMORY) * (accepted / drafted)
        down = jnp.where(accepted < drafted, -THRESHOLD_STEP, 0.0)
        moved = self.threshold + jnp.where(rate < TARGET_RATE, THRESHOLD_STEP, down)
        return StopState(rate, THRESHOLD_MEMORY * self.threshold + (1 - THRESHOLD_MEMORY) * moved)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class EarlyStopCache:
    """The drafting model's tail, and each row's threshold."""

    tail: TailCache
    stop: StopState


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Drafted:
    """Of one draft: what the model's commit needs, and the chain's first token and length, int32 [B]."""

    of_model: Any
    first: jax.Array
    lengths: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class GrowingDraft:
    """Of one draft, while it grows.

    Attributes:
      drafted: behind the tail, gamma + 1 slots.
      newest: int32 [B], token that the next forward reads.
      tokens, probs: int32 [B,gamma], float32 [B,gamma,V]; 0 beyond a row's length.
      lengths: int32 [B].
      going: bool [B], rows that draft another token.
      forwards: int32 scalar.
    """

    drafted: TailCache
    newest: jax.Array
    tokens: jax.Array
    probs: jax.Array
    lengths: jax.Array
    going: jax.Array
    forwards: jax.Array


@dataclasses.dataclass(frozen=True)
class EarlyStopDrafter:
    """Draws what `LanguageModelDrafter` draws, up to each row's own stop; the forwards end when every row has stopped.

    A row that has stopped rides along until then. What it computes is left out of its draft, and its keys and values
    lie behind all that can be committed: a draft of n tokens has read n - 1 of them, and n + 1 committed tokens leave
    the last two out of the tail.

    Attributes:
      model: the drafting model and its warping; gamma is the most that is drafted.
      threshold: lambda of the first step; -inf leaves the rule by entropy out.
      confidence: least probability of a drafted token behind which the draft goes on; 0 leaves this rule out.
    """

    model: LanguageModelDrafter
    threshold: float
    confidence: float = 0.0
    sources: tuple[str, ...] = ()

    @property
    def gamma(self) -> int:
        return self.model.gamma

    @property
    def layout(self) -> BlockLayout:
        return self.model.layout

    def initial_cache(self, tail: TailCache) -> EarlyStopCache:
        """The cache before the first step: no draft has been rejected yet, AR is 1.

        Args:
          tail: of the drafting model, after prefill.
        """
        rate = jnp.ones_like(tail.length, jnp.float32)
        return EarlyStopCache(tail, StopState(rate, jnp.full_like(rate, self.threshold)))

    def draft(
        self, model: Model, cache: EarlyStopCache, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[ChainDraft, Drafted]:
        batch, gamma = last_tokens.shape[0], self.gamma

        def appended(progress: GrowingDraft, token: jax.Array, probs: jax.Array) -> GrowingDraft:
            place, going = progress.forwards, progress.going
            trusted = jnp.take_along_axis(probs, token[:, None], axis=1)[:, 0] >= self.confidence
            token, kept = jnp.where(going, token, 0), jnp.where(going[:, None], probs, 0.0)
            return dataclasses.replace(
                progress,
                newest=token,
                tokens=jax.lax.dynamic_update_index_in_dim(progress.tokens, token, place, axis=1),
                probs=jax.lax.dynamic_update_index_in_dim(progress.probs, kept, place, axis=1),
                lengths=progress.lengths + going,
                going=going & trusted & (acceptance_bound(probs) >= cache.stop.threshold),
                forwards=place + 1,
            )

        def unfinished(progress: GrowingDraft) -> jax.Array:
            return jnp.any(progress.going) & (progress.forwards < gamma)

        def once(progress: GrowingDraft) -> GrowingDraft:
            logits, drafted = self.model.forward(model, tail, progress.drafted, progress.newest[:, None], warping)
            token = self.model.draw(keys, progress.forwards, logits, warping)
            return appended(dataclasses.replace(progress, drafted=drafted), token, jax.nn.softmax(logits))

        tail, logits, drafted = self.model.begin(model, cache.tail, last_tokens, warping)
        first, alternatives = self.model.draw_first(keys, logits, warping)
        nothing = GrowingDraft(
            drafted=drafted,
            newest=first,
            tokens=jnp.zeros((batch, gamma), jnp.int32),
            probs=jnp.zeros((batch, gamma, logits.shape[-1])),
            lengths=jnp.zeros((batch,), jnp.int32),
            going=jnp.ones((batch,), bool),
            forwards=jnp.int32(0),
        )
        done = jax.lax.while_loop(unfinished, once, appended(nothing, first, jax.nn.softmax(logits)))
        forwards = jnp.broadcast_to(done.forwards, (batch,))
        draft = ChainDraft(done.tokens, done.probs, done.lengths, forwards, alternatives)
        return draft, Drafted(self.model.to_commit(tail, done.drafted), first, done.lengths)

    def commit(self, cache: EarlyStopCache, drafted: Drafted, outcome: Outcome) -> EarlyStopCache:
        # Two tokens that begin with another one are an accepted alternative and its bonus: nothing of the chain.
        of_chain = outcome.tokens[:, 0] == drafted.first
        accepted = jnp.where(of_chain, jnp.maximum(outcome.count - 1, 0), 0)
        stop = cache.stop.after(accepted, drafted.lengths)
        threshold = jnp.where(outcome.count == 0, jnp.inf, stop.threshold)
        tail = self.model.commit(cache.tail, drafted.of_model, outcome)
        return EarlyStopCache(tail, StopState(stop.rate, threshold))
