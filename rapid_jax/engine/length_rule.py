"""The length rule: before a batch is decoded, whether drafts pay there, and how long they should be."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import logging

from rapid_jax.config import Method, SpeculationConfig
from rapid_jax.decoding.buckets import context_bucket
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.session import Session
from rapid_jax.engine.step_costs import measure_step_seconds
from rapid_jax.speculation import StepSeconds, choose_gamma, speed_up


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the rule has found.

    Attributes:
      gamma: tokens to draft in a step; 0 where drafts would lose.
      acceptance: that was expected of each drafted token.
      speed_up: that is predicted for the best draft length allowed, over no drafts.
      costs: of a step.
    """

    gamma: int
    acceptance: float
    speed_up: float
    costs: StepSeconds

    def applied_to(self, method: Method, speculation: SpeculationConfig) -> tuple[Method, SpeculationConfig]:
        """Method and settings as decided: with this draft length, or without a drafting model."""
        if not self.gamma:
            return method.without_drafts, speculation
        return method, dataclasses.replace(speculation, gamma=self.gamma)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


def decide(
    session: Session,
    method: Method,
    speculation: SpeculationConfig,
    context: PrefilledContext,
    passages: int,
    rows: int,
) -> Decision | None:
    """Decides for one batch; None where no model alone drafts for the method.

    Costs are measured once for each size of caches and batch, acceptance is that of the last answers by this
    method, or what is expected before there is any.

    Args:
      session: models, programs, and what was measured and seen before.
      method, speculation: who would draft, and what is asked.
      context: what the target has read.
      passages: tokens that the drafter would read.
      rows: of the batch.
    """
    if not method.drafts_from_passages or method.looks_up:
        return None
    cache = context.cache
    size = context_bucket(passages, session.config.prefill_chunk)
    key = (cache.capacity, cache.k[0].shape[0], size, rows, id(session.drafter))
    with session.lock:
        if key not in session.step_costs:
            models, chunk = (session.target, cache, session.drafter), session.config.prefill_chunk
            session.step_costs[key] = measure_step_seconds(session.programs, *models, passages, rows, chunk=chunk)
        costs = session.step_costs[key]
    acceptance = session.acceptance_seen.get(method.name, speculation.expected_acceptance)
    gamma = choose_gamma(costs, acceptance) if speculation.choose_gamma else speculation.gamma
    gain = speed_up(costs, acceptance, gamma)
    if speculation.length_rule and gain <= 1:
        logging.warning(
            "%s drafts nothing at %s tokens of context: %d drafted tokens a step, each accepted with probability %.2f, "
            "would decode at %.2f times the speed of none",
            method.name,
            f"{max(context.lengths):,}",
            gamma,
            acceptance,
            gain,
        )
        gamma = 0
    return Decision(gamma, acceptance, gain, costs)
