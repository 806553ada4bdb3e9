"""The length rule: before a batch is decoded, whether drafts pay there, and how long they should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from absl import logging

from rapid_jax.config import Method, SpeculationConfig
from rapid_jax.config.methods import OWN_CACHE, OWN_PAGES, OWN_PLANES
from rapid_jax.decoding.buckets import context_bucket
from rapid_jax.drafting.makers import maker_of
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.engine.session import Session
from rapid_jax.engine.step_costs import blank_context, measure_step_seconds
from rapid_jax.speculation import GAMMAS, AcceptanceRecord, StepSeconds, choose_gamma, speed_up


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the rule has found.

    Attributes:
      gamma: tokens to draft in a step; 0 where drafts would lose.
      tried: tokens of the best draft that is allowed.
      acceptance: that was expected of each drafted token.
      speed_up: that is predicted for that draft, over no drafts.
      costs: of a step.
    """

    gamma: int
    tried: int
    acceptance: float
    speed_up: float
    costs: StepSeconds

    def applied_to(self, method: Method, speculation: SpeculationConfig) -> tuple[Method, SpeculationConfig]:
        """Method and settings as decided: with this draft length, or without a drafting model."""
        if not self.gamma:
            return method.without_drafts, speculation
        return method, dataclasses.replace(speculation, gamma=self.gamma)

    def warn(self, method: str, tokens: int) -> None:
        """Says of a method that it drafts nothing at this length of context, where that was decided."""
        if not self.gamma:
            logging.warning(
                "%s drafts nothing at %s tokens of context: %d drafted tokens a step, each accepted with probability "
                "%.2f, would decode at %.2f times the speed of none",
                method,
                f"{tokens:,}",
                self.tried,
                self.acceptance,
                self.speed_up,
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


def may_drop(method: Method, speculation: SpeculationConfig) -> bool:
    """Whether the rule may leave a method without drafts."""
    if not method.draws or method.searches:  # copies decide in every step, and of databases nothing is expected
        return False
    lossless = not (method.transfers and speculation.eta)
    return speculation.length_rule == "all" or (speculation.length_rule == "lossless" and lossless)


def record_key(method: Method, speculation: SpeculationConfig) -> Hashable:
    """What answers must have in common for the acceptance of one to say something of another's."""
    own = tuple(getattr(speculation, name) for name in method.own_settings)
    return method.name, speculation.eta if method.transfers else 0.0, own


def decides(method: Method, speculation: SpeculationConfig) -> bool:
    """Whether there is something to decide of a method."""
    return may_drop(method, speculation) or _may_choose(method, speculation)


def _may_choose(method: Method, speculation: SpeculationConfig) -> bool:
    return speculation.choose_gamma and method.drafts_from_passages and not method.looks_up


def decide(
    session: Session,
    method: Method,
    speculation: SpeculationConfig,
    context: PrefilledContext,
    passages: int,
    rows: int,
) -> tuple[Decision, float]:
    """Decides for one batch, where there is something to decide.

    Costs are measured once for each size of caches and batch, acceptance is that of the answers by this method so far
    (`AcceptanceRecord`).

    Args:
      session: models, programs, and what was measured and seen before.
      method, speculation: who would draft, and what is asked.
      context: what the target has read.
      passages: tokens that a drafter of passages would read.
      rows: of the batch.

    Returns:
      (what was decided, the seconds that measuring took).
    """
    with session.lock:
        costs, seconds = _costs(session, method, speculation, context, passages, rows)
        record = session.acceptance_seen.get(record_key(method, speculation), AcceptanceRecord())
    acceptance, gamma = record.share(speculation.expected_acceptance), speculation.gamma
    if _may_choose(method, speculation):
        gammas = [n for n in GAMMAS if n < speculation.window]  # a longer draft is no setting that there can be
        gamma = choose_gamma(costs, acceptance, gammas)
    gain = speed_up(costs, acceptance, gamma)
    drops = gain <= 1 and may_drop(method, speculation)
    return Decision(0 if drops else gamma, gamma, acceptance, gain, costs), seconds


def _costs(
    session: Session,
    method: Method,
    speculation: SpeculationConfig,
    context: PrefilledContext,
    passages: int,
    rows: int,
) -> tuple[StepSeconds, float]:
    """The costs of a step, and the seconds that measuring took."""
    cache, programs, chunk = context.cache, session.programs.running, session.config.prefill_chunk
    drafter = session.drafter if method.drafts_from_passages else session.own_drafter
    prompt = passages if method.drafts_from_passages else max(context.lengths)
    tokens = maker_of(method).tokens_read(speculation, prompt)
    size = context_bucket(tokens, chunk)
    key = (method.drafting_model, cache.capacity, cache.k[0].shape[0], size, rows, id(drafter))
    seconds = 0.0
    if key not in session.step_costs:
        if method.drafting_model == OWN_PLANES:
            read = cache.upper
        else:
            kv = "" if method.drafting_model == OWN_CACHE else session.config.kv  # a window is a tail
            read = blank_context(programs, drafter, rows, tokens, chunk=chunk, kv=kv)
        costs, seconds = measure_step_seconds(programs, session.target, cache, drafter, read, rows)
        session.step_costs[key] = costs
    costs = session.step_costs[key]
    if method.drafting_model == OWN_PAGES:  # the forward that chooses reads all, in the place of one that drafts
        start = max(costs.plain - costs.draft, 0.0) / speculation.page_renewal
        costs = dataclasses.replace(costs, start=start)
    return costs, seconds
