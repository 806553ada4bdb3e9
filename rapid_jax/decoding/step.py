"""The speculative step, draft -> verify -> accept -> commit, and bursts of it, as pure functions of static shape."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from models.cache import Block, ContextCache, commit
from models.decoder import output_logits
from rapid_jax.decoding.accept import Accepted, accept_candidates, accept_chain
from rapid_jax.decoding.drafter import CandidateDraft, ChainDraft, Draft, Drafter, Outcome, paces
from rapid_jax.decoding.forward import forward_block
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import position_keys
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import ALONE, BONUS, DRAFTED, DRAFTER, INSTEAD, TARGET, BurstReport, Counters, DecodeState

Known = tuple[jax.Array, jax.Array, jax.Array]  # last tokens [B,2], random keys [B], generated tokens [B]


def step(
    spec: StepSpec, params: dict, context: ContextCache, drafter_model: Any, controls: Controls, state: DecodeState
) -> DecodeState:
    """One step of every row: at least one token for each that is not done.

    Args:
      params, context: the target's parameters and its frozen context.
      drafter_model: what the drafter reads.
      controls: see there.
      state: B rows.
    """
    known = (state.last_tokens, state.keys, state.num_tokens)
    with jax.named_scope("draft"):
        draft, drafted = propose(spec, drafter_model, state.drafter_cache, controls, known)
    state, outcome = judge(spec, params, context, draft, controls, state)
    with jax.named_scope("drafter_commit"):
        return dataclasses.replace(state, drafter_cache=spec.drafter.commit(state.drafter_cache, drafted, outcome))


def propose(spec: StepSpec, drafter_model: Any, cache: Any, controls: Controls, known: Known) -> tuple[Draft, Any]:
    """The drafter's half of a step; see `Drafter.draft`."""
    last_tokens, keys, num_tokens = known
    draft_keys, _ = position_keys(keys, num_tokens)
    return spec.drafter.draft(drafter_model, cache, last_tokens, draft_keys, controls.warping)


def judge(
    spec: StepSpec, params: dict, context: ContextCache, draft: Draft, controls: Controls, state: DecodeState
) -> tuple[DecodeState, Outcome]:
    """The target's half of a step: verify, accept, commit.

    Returns:
      (the state behind the step, its drafter's cache untouched; what the drafter needs for its own commit).
    """
    tried = _try(spec, params, context, draft, controls, state)
    accepted = tried.accepted
    with jax.named_scope("commit"):
        emitted = accepted.tokens
        count, ended = _cut(emitted, accepted.num_accepted + 1, state, controls.stop_ids)
        tokens = jnp.concatenate([state.last_tokens, emitted], axis=1)  # the last two committed: at count, count + 1
        behind = DecodeState(
            newest=jnp.take_along_axis(jnp.concatenate([state.newest, emitted], axis=1), count[:, None], axis=1),
            last_tokens=jnp.take_along_axis(tokens, count[:, None] + jnp.arange(2)[None, :], axis=1),
            target_tail=commit(state.target_tail, tried.block, count, accepted.rows),
            drafter_cache=state.drafter_cache,
            output=_append(state.output, state.num_tokens, emitted, count),
            origins=_append(state.origins, state.num_tokens, _origins(state, accepted), count),
            num_tokens=state.num_tokens + count,
            budget=state.budget,
            done=state.done | ended,
            not_finite=state.not_finite | jnp.where(state.done, 0, tried.not_finite),
            keys=state.keys,
            counters=_counted(state, draft, accepted),
        )
    return behind, Outcome(emitted, count, tried.extra_logits, tried.block, accepted.rows)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Tried:
    """A draft behind the target's forward, before anything of it is kept.

    Attributes:
      accepted: what may be emitted.
      block: keys and values of the tokens in flight.
      extra_logits: float32 [B,E,V], see Outcome.
      not_finite: int32 [B], see `_not_finite`.
    """

    accepted: Accepted
    block: Block
    extra_logits: jax.Array
    not_finite: jax.Array


def _try(
    spec: StepSpec, params: dict, context: ContextCache, draft: Draft, controls: Controls, state: DecodeState
) -> _Tried:
    """Verifies and accepts a draft; of a draft with a pace the rows of that pace are computed, the rest is 0."""

    def tried(spec: StepSpec, draft: Draft) -> _Tried:
        with jax.named_scope("verify"):
            logits, block = _verify(spec, params, context, draft, state)
        with jax.named_scope("accept"):
            verified, row = _verified_rows(draft), (state.keys, state.num_tokens)
            accept = accept_chain if isinstance(draft, ChainDraft) else accept_candidates
            accepted = accept(spec, controls, *row, draft, logits[:, :verified])  # type: ignore[arg-type]
            return _Tried(accepted, block, logits[:, verified:], _not_finite(logits, draft))

    if not isinstance(draft, CandidateDraft) or draft.pace is None:
        return tried(spec, draft)
    size = spec.drafter.gamma + 1

    def at(pace: Drafter) -> _Tried:
        done = tried(dataclasses.replace(spec, drafter=pace), draft.narrowed(pace.gamma))
        missing = size - pace.gamma - 1

        def rows(x: jax.Array) -> jax.Array:
            return jnp.pad(x, ((0, 0), (0, missing)))

        def slots(cached: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return tuple(jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in cached)

        accepted = dataclasses.replace(done.accepted, tokens=rows(done.accepted.tokens))
        if accepted.rows is not None:
            accepted = dataclasses.replace(accepted, rows=rows(accepted.rows))
        return dataclasses.replace(done, accepted=accepted, block=Block(slots(done.block.k), slots(done.block.v)))

    return jax.lax.switch(draft.pace, [functools.partial(at, pace) for pace in paces(spec.drafter)])


def _verify(
    spec: StepSpec, params: dict, context: ContextCache, draft: Draft, state: DecodeState
) -> tuple[jax.Array, Block]:
    """One forward of the target over its newest token and the draft: the logits that are wanted, keys and values."""
    layout = spec.drafter.layout
    tokens = jnp.concatenate([state.newest, draft.in_flight], axis=1)
    offsets = jnp.asarray(layout.offsets, jnp.int32)[None, :]
    mask = None if layout.mask is None else jnp.asarray(layout.mask)
    if isinstance(draft, CandidateDraft) and draft.tree is not None and layout.mask is not None:
        offsets, mask = draft.tree.laid_into(layout.offsets, layout.mask)
    positions = next_positions(1, context, state.target_tail) + offsets
    wanted = slice(None) if layout.logit_rows is None else layout.logit_rows
    proposed = None
    if isinstance(draft, CandidateDraft) and draft.pace is None and not draft.extra.shape[1]:
        proposed = jnp.any((draft.lengths > 0) & ~state.done[:, None])
    return forward_block(
        spec.target,
        params,
        tokens,
        positions,
        (context, state.target_tail),
        lambda hidden: output_logits(spec.target, params, hidden[:, wanted]),
        mask=mask,
        proposed=proposed,
    )


def _verified_rows(draft: Draft) -> int:
    """Rows of logits that acceptance looks at; those of the drafter's extra tokens come behind them."""
    return draft.in_flight.shape[1] + 1 - (0 if isinstance(draft, ChainDraft) else draft.extra.shape[1])


def _not_finite(logits: jax.Array, draft: Draft) -> jax.Array:
    """TARGET and DRAFTER of the models whose numbers are not finite, int32 [B].

    The largest number is NaN where any is. A token that only the target knows has probability 0 for the drafter, so
    that its probabilities are looked at, not its logits.
    """

    def bad(numbers: jax.Array) -> jax.Array:
        return ~jnp.isfinite(jnp.max(numbers, axis=(1, 2)))

    found = jnp.where(bad(logits), TARGET, 0)
    if isinstance(draft, ChainDraft) and draft.tokens.shape[1]:
        found = found | jnp.where(bad(draft.probs), DRAFTER, 0)
    return found.astype(jnp.int32)


def _counted(state: DecodeState, draft: Draft, accepted: Accepted) -> Counters:
    new = Counters(
        steps=jnp.ones_like(state.num_tokens),
        proposed=accepted.proposed,
        tested=accepted.tested,
        accepted=accepted.num_accepted,
        drafter_forwards=draft.forwards,
        by_source=accepted.by_source,
    )
    active = ~state.done
    return jax.tree.map(
        lambda sum, more: sum + jnp.where(active.reshape(-1, *[1] * (more.ndim - 1)), more, 0), state.counters, new
    )


def _cut(emitted: jax.Array, count: jax.Array, state: DecodeState, stop_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens that each row keeps, up to its first stop id (kept) and its budget, and whether it ends: both [B]."""
    size = emitted.shape[1]
    stops = jnp.any(emitted[:, :, None] == stop_ids[None, None, :], axis=-1)
    first_stop = jnp.where(jnp.any(stops, axis=1), jnp.argmax(stops, axis=1) + 1, size + 1)
    room = state.budget - state.num_tokens
    kept = jnp.minimum(jnp.minimum(count, first_stop), room)
    ended = (first_stop <= kept) | (kept == room)
    return jnp.where(state.done, 0, kept).astype(jnp.int32), ended


def _origins(state: DecodeState, accepted: Accepted) -> jax.Array:
    """Where each token that a step may emit is from, int32 [B,gamma+1,4]; see DecodeState.origins."""
    place = jnp.arange(accepted.tokens.shape[1])[None, :]
    next_writer = jnp.where(accepted.refused >= 0, INSTEAD, jnp.where(accepted.proposed > 0, BONUS, ALONE))
    is_drafted = place < accepted.num_accepted[:, None]
    refused = jnp.where(place == accepted.num_accepted[:, None], accepted.refused[:, None], -1)
    columns = (
        state.counters.steps[:, None],
        jnp.where(is_drafted, DRAFTED + accepted.source[:, None], next_writer[:, None]),
        refused,
        accepted.proposed[:, None],
    )
    return jnp.stack([jnp.broadcast_to(column, refused.shape) for column in columns], axis=-1).astype(jnp.int32)


def _append(output: jax.Array, num_tokens: jax.Array, emitted: jax.Array, count: jax.Array) -> jax.Array:
    """What was written so far [B,M,...] with the first `count` of each row of `emitted` [B,T,...] behind it."""
    offset = jnp.arange(emitted.shape[1])[None, :]
    slots = jnp.where(offset < count[:, None], num_tokens[:, None] + offset, output.shape[1])
    return output.at[jnp.arange(output.shape[0])[:, None], slots].set(emitted, mode="drop")


def burst(
    spec: StepSpec,
    max_steps: int,
    params: dict,
    context: ContextCache,
    drafter_model: Any,
    controls: Controls,
    stopped: jax.Array,
    state: DecodeState,
) -> tuple[DecodeState, BurstReport]:
    """Up to max_steps steps on the device; ends early once all rows are done.

    Args:
      stopped: bool [B], rows that the host has ended (a stop string).

    Returns:
      (state, what the host reads of it).
    """

    def unfinished(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
        return (carry[0] < max_steps) & ~jnp.all(carry[1].done)

    def once(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
        return carry[0] + 1, step(spec, params, context, drafter_model, controls, carry[1])

    state = dataclasses.replace(state, done=state.done | stopped)
    _, state = jax.lax.while_loop(unfinished, once, (jnp.int32(0), state))
    return state, BurstReport.of(state)
