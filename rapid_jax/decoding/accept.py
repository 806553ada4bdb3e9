"""Acceptance inside the step: the target's logits and a draft of either shape in, the tokens that are emitted out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rapid_jax.decoding.drafter import Alternatives, CandidateDraft, ChainDraft
from rapid_jax.decoding.sampling import Warping, position_keys, warp_logits
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.verification import retrieval_augmented_target, target_distribution, verify_chain
from rapid_jax.verification.candidates import follow_candidates
from rapid_jax.verification.chain import draw_next
from rapid_jax.verification.multi_candidate import verify_alternatives


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Accepted:
    """What a step emits before stop ids and budgets cut it.

    Attributes:
      tokens: int32 [B,gamma+1], accepted tokens, then the next one; what follows is not emitted.
      num_accepted: int32 [B].
      rows: int32 [B,gamma+1], the block's rows whose keys and values are kept, in order; None keeps the first ones.
      proposed, tested: int32 [B], drafted tokens, and those that a test was applied to, one a position.
      by_source: int32 [B,sources], accepted tokens by where they come from.
      source: int32 [B], where the accepted ones come from; 0 where there is one source or nothing is accepted.
      refused: int32 [B], the drafted token in whose place the next one stands; -1 where none was refused.
    """

    tokens: jax.Array
    num_accepted: jax.Array
    rows: jax.Array | None
    proposed: jax.Array
    tested: jax.Array
    by_source: jax.Array
    source: jax.Array
    refused: jax.Array


def accept_chain(
    spec: StepSpec,
    controls: Controls,
    keys: jax.Array,
    num_tokens: jax.Array,
    draft: ChainDraft,
    logits: jax.Array,
) -> Accepted:
    """The ratio test of a drafted chain (verification.chain) and of alternatives to its first token (multi_candidate).

    Where there are alternatives the residual is "exact", whatever `spec` says; at eta = 0 the residuals coincide.

    Args:
      spec: the acceptance rule and `verify`.
      controls: eta and the warping.
      keys, num_tokens: each row's random key [B] and its generated tokens int32 [B].
      draft: see there.
      logits: the target's [B,gamma+1+A,V], not warped yet; those behind the A alternatives come last.

    Raises:
      ValueError: there are alternatives, which spec.verify knows nothing of.
    """
    gamma, alternatives = draft.tokens.shape[1], draft.alternatives
    chain = warp_logits(logits[:, : gamma + 1], controls.warping)
    rule, temperature = spec.rule, controls.warping.remaining_temperature
    p, p_hat = retrieval_augmented_target(
        chain[:, :gamma], draft.probs, eta=controls.eta, temperature=temperature, tail=rule.tail, alpha=rule.alpha
    )
    bonus = target_distribution(chain[:, gamma:], temperature=temperature)
    _, verify_keys = position_keys(keys, num_tokens)
    if alternatives is not None:
        if spec.verify is not verify_chain:
            raise ValueError("forced acceptance knows one candidate for each position: set first_candidates to 1")
        verify_keys, alternative_keys = jax.vmap(jax.random.split, out_axes=1)(verify_keys)
    num_accepted, next_token = spec.verify(
        verify_keys,
        draft.tokens,
        draft.probs,
        jnp.concatenate([p, bonus], axis=1),
        p_hat,
        residual=rule.residual if alternatives is None else "exact",
        draft_length=draft.lengths,
    )
    padded = jnp.pad(draft.tokens, ((0, 0), (0, 1)))
    place = jnp.arange(gamma + 1)[None, :] == num_accepted[:, None]
    accepted = Accepted(
        tokens=jnp.where(place, next_token[:, None], padded),
        num_accepted=num_accepted,
        rows=None,
        proposed=draft.lengths,
        tested=jnp.minimum(num_accepted + 1, draft.lengths),
        by_source=jnp.zeros((draft.tokens.shape[0], 0), jnp.int32),
        source=jnp.zeros_like(num_accepted),
        refused=_refused(padded, draft.lengths, num_accepted),
    )
    if alternatives is None:
        return accepted
    return _try_alternatives(
        controls.warping, alternative_keys, draft, alternatives, p_hat[:, 0], logits[:, gamma + 1 :], accepted
    )


def _try_alternatives(
    warping: Warping,
    keys: jax.Array,
    draft: ChainDraft,
    alternatives: Alternatives,
    p_hat: jax.Array,
    logits: jax.Array,
    accepted: Accepted,
) -> Accepted:
    """What is emitted once alternatives are tried in the rows that rejected the first token of the chain.

    Args:
      keys: one a row [B], not used before.
      p_hat: float32 [B,V], of the first position.
      logits: the target's behind the alternatives [B,A,V], not warped yet.
      accepted: what the chain alone would emit.
    """
    chain = draft.tokens.shape[1] + 1
    chosen, law = verify_alternatives(
        keys, draft.tokens[:, 0], alternatives.tokens, alternatives.count, draft.probs[:, 0], p_hat
    )
    rejected = (accepted.num_accepted == 0) & (draft.lengths > 0)
    taken = rejected & (chosen >= 0)
    index = jnp.maximum(chosen, 0)[:, None]
    token = jnp.take_along_axis(alternatives.tokens, index, axis=1)[:, 0]
    behind = warp_logits(jnp.take_along_axis(logits, index[:, :, None], axis=1)[:, 0], warping)
    bonus = target_distribution(behind, temperature=warping.remaining_temperature)
    drawn = jax.vmap(draw_next)(keys, jnp.where(taken[:, None], bonus, law))

    first = jnp.where(rejected, jnp.where(taken, token, drawn), accepted.tokens[:, 0])
    second = jnp.where(taken, drawn, accepted.tokens[:, 1])
    rows = jnp.broadcast_to(jnp.arange(chain, dtype=jnp.int32), accepted.tokens.shape)
    return dataclasses.replace(
        accepted,
        tokens=accepted.tokens.at[:, 0].set(first).at[:, 1].set(second),
        num_accepted=jnp.where(taken, 1, accepted.num_accepted),
        rows=rows.at[:, 1].set(jnp.where(taken, chain + chosen, 1)),
        proposed=accepted.proposed + alternatives.count,
        refused=jnp.where(taken, -1, accepted.refused),
    )


def accept_candidates(
    spec: StepSpec,
    controls: Controls,
    keys: jax.Array,
    num_tokens: jax.Array,
    draft: CandidateDraft,
    logits: jax.Array,
) -> Accepted:
    """Candidates are followed as far as the target's own draws agree (verification.candidates).

    The token at a position is drawn with that position's key, as plain decoding draws it: a seed gives the tokens of
    plain decoding, sampled ones too, up to the rounding of forwards of different sizes.

    Args:
      spec, controls, keys, num_tokens: as `accept_chain`.
      draft: see there.
      logits: the target's [B,1+R,V], not warped yet.
    """
    warping = controls.warping
    warped = warp_logits(logits, warping)
    if warping.greedy:
        drawn = jnp.argmax(warped, axis=-1).astype(jnp.int32)
    else:
        laws = target_distribution(warped, temperature=warping.remaining_temperature)
        _, verify_keys = jax.vmap(position_keys, (None, 1), 1)(keys, num_tokens[:, None] + draft.depths)
        drawn = jax.vmap(jax.vmap(draw_next))(verify_keys, laws)
    followed = follow_candidates(draft.tokens, draft.lengths, draft.rows, drawn)
    chosen = followed.chosen[:, None]
    source = jnp.take_along_axis(draft.sources, chosen, axis=1)
    is_source = source == jnp.arange(len(spec.drafter.sources))[None, :]
    # What was refused stands in the longest candidate that agrees with what is emitted, as far as any does.
    place = jnp.arange(draft.tokens.shape[2])[None, None, :]
    agrees = (draft.tokens == followed.tokens[:, None, :-1]) | (place >= followed.num_accepted[:, None, None])
    tried = jnp.argmax(jnp.where(jnp.all(agrees, axis=-1), draft.lengths, -1), axis=1)
    candidate = jnp.take_along_axis(draft.tokens, tried[:, None, None], axis=1)[:, 0]
    length = jnp.take_along_axis(draft.lengths, tried[:, None], axis=1)[:, 0]
    return Accepted(
        tokens=followed.tokens,
        num_accepted=followed.num_accepted,
        rows=followed.rows,
        proposed=jnp.sum(draft.lengths, axis=1),
        tested=jnp.minimum(followed.num_accepted + 1, jnp.max(draft.lengths, axis=1)),
        by_source=jnp.where(is_source, followed.num_accepted[:, None], 0),
        source=source[:, 0],
        refused=_refused(jnp.pad(candidate, ((0, 0), (0, 1))), length, followed.num_accepted),
    )


def _refused(drafted: jax.Array, lengths: jax.Array, num_accepted: jax.Array) -> jax.Array:
    """The token of a draft [B,gamma+1] of `lengths` [B] tokens behind those that were accepted; -1 where none is."""
    behind = jnp.take_along_axis(drafted, num_accepted[:, None], axis=1)[:, 0]
    return jnp.where(num_accepted < lengths, behind, -1)
