"""Acceptance inside the step: the target's logits and a draft of either shape in, the tokens that are emitted out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from rapid_jax.decoding.sampling import position_keys, warp_logits
from rapid_jax.drafting.base import CandidateDraft, ChainDraft
from rapid_jax.verification import retrieval_augmented_target, target_distribution
from rapid_jax.verification.candidates import follow_candidates, path_rows
from rapid_jax.verification.chain import draw_next

if TYPE_CHECKING:
    from rapid_jax.decoding.step import StepSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Accepted:
    """What a step emits before stop ids and budgets cut it.

    Attributes:
      tokens: int32 [B,gamma+1], accepted tokens, then the next one; what follows is not emitted.
      num_accepted: int32 [B].
      rows: int32 [B,gamma+1], the block's rows whose keys and values are kept, in order; None keeps the first ones.
      proposed, tested: int32 [B], drafted tokens, and those that a test was applied to.
      by_source: int32 [B,sources], accepted tokens by where they come from.
    """

    tokens: jax.Array
    num_accepted: jax.Array
    rows: jax.Array | None
    proposed: jax.Array
    tested: jax.Array
    by_source: jax.Array


def accept_chain(
    spec: StepSpec, keys: jax.Array, num_tokens: jax.Array, draft: ChainDraft, logits: jax.Array, eta: jax.Array
) -> Accepted:
    """The ratio test (verification.chain) of a drafted chain.

    Args:
      spec: warping, rules and `verify`.
      keys, num_tokens: each row's random key [B] and its generated tokens int32 [B].
      draft: see there.
      logits: the target's [B,gamma+1,V], not warped yet.
      eta: float32 scalar, transfer strength.
    """
    gamma = draft.tokens.shape[1]
    logits = warp_logits(logits, temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
    temperature = spec.warped_temperature
    p, p_hat = retrieval_augmented_target(
        logits[:, :gamma], draft.probs, eta=eta, temperature=temperature, tail=spec.tail, alpha=spec.alpha
    )
    bonus = target_distribution(logits[:, gamma:], temperature=temperature)
    _, verify_keys = position_keys(keys, num_tokens)
    num_accepted, next_token = spec.verify(
        verify_keys,
        draft.tokens,
        draft.probs,
        jnp.concatenate([p, bonus], axis=1),
        p_hat,
        residual=spec.residual,
        draft_length=draft.lengths,
    )
    padded = jnp.pad(draft.tokens, ((0, 0), (0, 1)))
    place = jnp.arange(gamma + 1)[None, :] == num_accepted[:, None]
    return Accepted(
        tokens=jnp.where(place, next_token[:, None], padded),
        num_accepted=num_accepted,
        rows=None,
        proposed=draft.lengths,
        tested=jnp.minimum(num_accepted + 1, draft.lengths),
        by_source=jnp.zeros((draft.tokens.shape[0], 0), jnp.int32),
    )


def accept_candidates(
    spec: StepSpec, keys: jax.Array, num_tokens: jax.Array, draft: CandidateDraft, logits: jax.Array
) -> Accepted:
    """Candidates are followed as far as the target's own draws agree (verification.candidates).

    The token at a position is drawn with that position's key, as plain decoding draws it: a seed gives the tokens of
    plain decoding, sampled ones too, up to the rounding of forwards of different sizes.

    Args:
      spec, keys, num_tokens: as `accept_chain`.
      draft: see there.
      logits: the target's [B,1+C*m,V], not warped yet.
    """

    def draw(depth: int, row: jax.Array) -> jax.Array:
        behind = jnp.take_along_axis(logits, row[:, None, None], axis=1)[:, 0]
        warped = warp_logits(behind, temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
        law = target_distribution(warped, temperature=spec.warped_temperature)
        _, verify_keys = position_keys(keys, num_tokens + depth)
        return jax.vmap(draw_next)(verify_keys, law)

    batch, _, length = draft.tokens.shape
    followed = follow_candidates(draft.tokens, draft.lengths, draw)
    chosen = followed.chosen[:, None]
    source = jnp.take_along_axis(draft.sources, chosen, axis=1)
    is_source = source == jnp.arange(len(spec.drafter.sources))[None, :]
    return Accepted(
        tokens=followed.tokens,
        num_accepted=followed.num_accepted,
        rows=path_rows(followed, length),
        proposed=jnp.sum(draft.lengths, axis=1),
        tested=jnp.minimum(followed.num_accepted + 1, jnp.max(draft.lengths, axis=1)),
        by_source=jnp.where(is_source, followed.num_accepted[:, None], 0),
    )
