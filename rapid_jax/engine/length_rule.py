"""The length rule: before a batch is decoded, whether drafts pay there, and how long they should be."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from absl import logging

from models.cache import ContextCache
from rapid_jax.config import SpeculationConfig
from rapid_jax.config.methods import Method
from rapid_jax.decoding.buckets import context_bucket
from rapid_jax.engine.step_costs import measure_step_seconds
from rapid_jax.planning.cost import StepSeconds, choose_gamma, speed_up

if TYPE_CHECKING:
    from rapid_jax.engine.engine import Engine


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

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


def decide(
    engine: Engine,
    method: Method,
    speculation: SpeculationConfig,
    context: ContextCache,
    tokens: int,
    passages: int,
    rows: int,
) -> Decision | None:
    """Decides for one batch; None where no model alone drafts for the method.

    Costs are measured once for each size of caches and batch, acceptance is that of the Engine's last answers by this
    method, or what is expected before there is any.

    Args:
      engine: whose models, programs and experience are used.
      method, speculation: who would draft, and what is asked.
      context: the target's, of `tokens` tokens.
      passages: tokens that the drafter would read.
      rows: of the batch.
    """
    if not method.drafts or method.looks_up:
        return None
    size = context_bucket(passages, engine.config.prefill_chunk)
    key = (context.capacity, context.k[0].shape[0], size, rows, id(engine.drafter))
    if key not in engine.step_costs:
        engine.step_costs[key] = measure_step_seconds(
            engine.programs,
            engine.target,
            context,
            engine.drafter,
            passages,
            rows,
            chunk=engine.config.prefill_chunk,
        )
    costs = engine.step_costs[key]
    acceptance = engine.acceptance_seen.get(method.name, speculation.expected_acceptance)
    gamma = choose_gamma(costs, acceptance) if speculation.choose_gamma else speculation.gamma
    gain = speed_up(costs, acceptance, gamma)
    if speculation.length_rule and gain <= 1:
        logging.warning(
            "%s drafts nothing at %s tokens of context: %d drafted tokens a step, each accepted with probability %.2f, "
            "would decode at %.2f times the speed of none",
            method.name,
            f"{tokens:,}",
            gamma,
            acceptance,
            gain,
        )
        gamma = 0
    return Decision(gamma, acceptance, gain, costs)
