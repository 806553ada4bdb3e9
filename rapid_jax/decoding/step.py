"""The speculative step, draft -> verify -> accept -> commit, and bursts of it, as pure functions of static shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models.cache import ContextCache, commit
from models.decoder import Decoder, output_logits
from rapid_jax.decoding.accept import Accepted, accept_candidates, accept_chain
from rapid_jax.decoding.drafter import CandidateDraft, ChainDraft, Draft, Drafter, Outcome
from rapid_jax.decoding.forward import read_block
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import position_keys
from rapid_jax.decoding.state import Counters, DecodeState, Report
from rapid_jax.verification import verify_chain


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The static part of a step.

    Attributes:
      target: the long-context model.
      drafter: who proposes; NullDrafter for plain decoding.
      temperature, top_k, top_p: the warping of target and drafter.
      tail, residual, alpha: the acceptance rule (see verification); several first candidates go by "exact" alone.
      stop_ids: token ids that end a row.
      verify: who accepts; hashable, with the contract of `verification.verify_chain`.
      apart: the mesh of the drafter's arrays where they are on devices of their own, see decoding.apart; else None.
    """

    target: Decoder
    drafter: Drafter
    temperature: float
    top_k: int
    top_p: float
    tail: str
    residual: str
    alpha: float
    stop_ids: tuple[int, ...]
    verify: Callable[..., tuple[jax.Array, jax.Array]] = verify_chain
    apart: Mesh | None = None

    @property
    def warped_temperature(self) -> float:
        """Of logits that the warping has divided by the temperature already: 1, or 0 for greedy."""
        return 0.0 if self.temperature == 0 else 1.0


def step(
    spec: StepSpec, params: dict, context: ContextCache, drafter_model: Any, eta: jax.Array, state: DecodeState
) -> DecodeState:
    """One step of every row: at least one token for each that is not done.

    Args:
      params, context: the target's parameters and its frozen context.
      drafter_model: what the drafter reads.
      eta: float32 scalar, transfer strength.
      state: B rows.
    """
    draft, drafted = propose(spec, drafter_model, state.drafter_cache, state.last_tokens, state.keys, state.num_tokens)
    state, outcome = judge(spec, params, context, draft, eta, state)
    return dataclasses.replace(state, drafter_cache=spec.drafter.commit(state.drafter_cache, drafted, outcome))


def propose(
    spec: StepSpec, drafter_model: Any, cache: Any, last_tokens: jax.Array, keys: jax.Array, num_tokens: jax.Array
) -> tuple[Draft, Any]:
    """The drafter's half of a step; see `Drafter.draft`."""
    draft_keys, _ = position_keys(keys, num_tokens)
    return spec.drafter.draft(drafter_model, cache, last_tokens, draft_keys)


def judge(
    spec: StepSpec, params: dict, context: ContextCache, draft: Draft, eta: jax.Array, state: DecodeState
) -> tuple[DecodeState, Outcome]:
    """The target's half of a step: verify, accept, commit.

    Returns:
      (the state behind the step, its drafter's cache untouched; what the drafter needs for its own commit).
    """
    layout = spec.drafter.layout
    tokens = jnp.concatenate([state.last_tokens[:, 1:], draft.in_flight], axis=1)
    positions = next_positions(1, context, state.target_tail) + jnp.asarray(layout.offsets, jnp.int32)[None, :]
    mask = None if layout.mask is None else jnp.asarray(layout.mask)
    wanted = slice(None) if layout.logit_rows is None else layout.logit_rows
    proposed = None
    if isinstance(draft, CandidateDraft) and not draft.extra.shape[1]:
        proposed = jnp.any((draft.lengths > 0) & ~state.done[:, None])
    logits, block = read_block(
        spec.target,
        params,
        tokens,
        positions,
        (context, state.target_tail),
        lambda hidden: output_logits(spec.target, params, hidden[:, wanted]),
        mask=mask,
        proposed=proposed,
    )
    if isinstance(draft, ChainDraft):
        verified = draft.in_flight.shape[1] + 1
        accepted = accept_chain(spec, state.keys, state.num_tokens, draft, logits[:, :verified], eta)
    else:
        verified = draft.lengths.shape[1] * draft.tokens.shape[2] + 1
        accepted = accept_candidates(spec, state.keys, state.num_tokens, draft, logits[:, :verified])

    emitted = accepted.tokens
    count, ended = _cut(emitted, accepted.num_accepted + 1, state, spec.stop_ids)
    newest = jnp.concatenate([state.last_tokens, emitted], axis=1)  # the last two committed are at count, count + 1
    behind = DecodeState(
        last_tokens=jnp.take_along_axis(newest, count[:, None] + jnp.arange(2)[None, :], axis=1),
        target_tail=commit(state.target_tail, block, count, accepted.rows),
        drafter_cache=state.drafter_cache,
        output=_append(state.output, state.num_tokens, emitted, count),
        num_tokens=state.num_tokens + count,
        budget=state.budget,
        done=state.done | ended,
        keys=state.keys,
        counters=_counted(state, draft, accepted),
    )
    return behind, Outcome(emitted, count, logits[:, verified:], block, accepted.rows)


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


def _cut(
    emitted: jax.Array, count: jax.Array, state: DecodeState, stop_ids: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Tokens that each row keeps, up to its first stop id (kept) and its budget, and whether it ends: both [B]."""
    size = emitted.shape[1]
    offset = jnp.arange(size)[None, :]
    stops = jnp.isin(emitted, jnp.array(stop_ids, jnp.int32)) & (offset < count[:, None])
    first_stop = jnp.where(jnp.any(stops, axis=1), jnp.argmax(stops, axis=1) + 1, size + 1)
    room = state.budget - state.num_tokens
    kept = jnp.minimum(jnp.minimum(count, first_stop), room)
    ended = (first_stop <= kept) | (kept == room)
    return jnp.where(state.done, 0, kept).astype(jnp.int32), ended


def _append(output: jax.Array, num_tokens: jax.Array, emitted: jax.Array, count: jax.Array) -> jax.Array:
    offset = jnp.arange(emitted.shape[1])[None, :]
    slots = jnp.where(offset < count[:, None], num_tokens[:, None] + offset, output.shape[1])
    return output.at[jnp.arange(output.shape[0])[:, None], slots].set(emitted, mode="drop")


def burst(
    spec: StepSpec,
    max_steps: int,
    params: dict,
    context: ContextCache,
    drafter_model: Any,
    eta: jax.Array,
    stopped: jax.Array,
    state: DecodeState,
) -> tuple[DecodeState, Report]:
    """Up to max_steps steps on the device; ends early once all rows are done.

    Args:
      stopped: bool [B], rows that the host has ended (a stop string).

    Returns:
      (state, what the host reads of it).
    """

    def unfinished(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
        return (carry[0] < max_steps) & ~jnp.all(carry[1].done)

    def once(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
        return carry[0] + 1, step(spec, params, context, drafter_model, eta, carry[1])

    state = dataclasses.replace(state, done=state.done | stopped)
    _, state = jax.lax.while_loop(unfinished, once, (jnp.int32(0), state))
    return state, Report(state.output, state.num_tokens, state.done, state.counters)
