"""The speculative step, draft -> verify -> accept -> commit, and bursts of it, as pure functions of static shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from models.cache import ContextCache, commit
from models.decoder import Decoder, hidden_states, output_logits
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import warp_logits
from rapid_jax.decoding.state import Counters, DecodeState, Report
from rapid_jax.drafting.base import Drafter
from rapid_jax.verification import retrieval_augmented_target, target_distribution, verify_chain


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The static part of a step.

    Attributes:
      target: the long-context model.
      drafter: who proposes; NullDrafter for plain decoding.
      temperature, top_k, top_p: the warping of target and drafter.
      tail, residual, alpha: the acceptance rule (see verification).
      stop_ids: token ids that end a row.
      verify: who accepts; hashable, with the contract of `verification.verify_chain`.
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
    gamma = spec.drafter.gamma
    # Folding in the position makes results independent of burst size and of the rest of the batch; it grows with every
    # step, so that no noise is used twice.
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.num_tokens)
    draft_keys, verify_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

    draft, drafted = spec.drafter.draft(drafter_model, state.drafter_cache, state.last_tokens, draft_keys)

    tokens = jnp.concatenate([state.last_tokens[:, 1:], draft.tokens], axis=1)
    positions = next_positions(gamma + 1, context, state.target_tail)
    hidden, block = hidden_states(spec.target, params, tokens, positions, context, state.target_tail)
    logits = output_logits(spec.target, params, hidden)
    logits = warp_logits(logits, temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
    temperature = 0.0 if spec.temperature == 0 else 1.0  # the warping has divided by it
    p, p_hat = retrieval_augmented_target(
        logits[:, :gamma], draft.probs, eta=eta, temperature=temperature, tail=spec.tail, alpha=spec.alpha
    )
    bonus = target_distribution(logits[:, gamma:], temperature=temperature)
    accepted, next_token = spec.verify(
        verify_keys,
        draft.tokens,
        draft.probs,
        jnp.concatenate([p, bonus], axis=1),
        p_hat,
        residual=spec.residual,
    )

    emitted = _emitted(draft.tokens, accepted, next_token)
    count, ended = _cut(emitted, accepted + 1, state, spec.stop_ids)
    newest = jnp.concatenate([state.last_tokens, emitted], axis=1)  # the last two committed are at count, count + 1
    tested = jnp.minimum(accepted + 1, gamma)
    active = jnp.where(state.done, 0, 1).astype(jnp.int32)
    return DecodeState(
        last_tokens=jnp.take_along_axis(newest, count[:, None] + jnp.arange(2)[None, :], axis=1),
        target_tail=commit(state.target_tail, block, count),
        drafter_cache=spec.drafter.commit(state.drafter_cache, drafted, count),
        output=_append(state.output, state.num_tokens, emitted, count),
        num_tokens=state.num_tokens + count,
        budget=state.budget,
        done=state.done | ended,
        keys=state.keys,
        counters=Counters(
            steps=state.counters.steps + active,
            proposed=state.counters.proposed + active * gamma,
            tested=state.counters.tested + active * tested,
            accepted=state.counters.accepted + active * accepted,
        ),
    )


def _emitted(draft_tokens: jax.Array, accepted: jax.Array, next_token: jax.Array) -> jax.Array:
    """int32 [B,gamma+1]: the accepted tokens, then the next token; what follows is not emitted."""
    padded = jnp.pad(draft_tokens, ((0, 0), (0, 1)))
    place = jnp.arange(padded.shape[1])[None, :] == accepted[:, None]
    return jnp.where(place, next_token[:, None], padded)


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
