"""Settings of drafting and verification, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import MOST_ROWS, MOST_TOKENS, check_most, is_integer, is_number, require

TAIL_RULES = ("teacher", "augmented")  # see verification.target_mixing
RESIDUALS = ("rapid", "exact")  # see verification.chain


@dataclasses.dataclass(frozen=True)
class AcceptanceRule:
    """How drafted tokens are accepted (RAPID, arXiv 2502.20330, Algorithm 1); every field is a constant of a program.

    Attributes:
      tail: rule for the tail of the vocabulary, whose tokens receive no transfer: "teacher" or "augmented" (see
        verification.target_mixing).
      residual: what replaces a rejected token, "rapid" or "exact" (see verification.chain).
      alpha: a token is in the tail below alpha times the largest probability.
    """

    tail: str = "teacher"
    residual: str = "rapid"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        require(self.tail in TAIL_RULES, f"tail must be one of {', '.join(TAIL_RULES)}, got {shown(self.tail)}")
        require(
            self.residual in RESIDUALS, f"residual must be one of {', '.join(RESIDUALS)}, got {shown(self.residual)}"
        )
        require(is_number(self.alpha) and 0 <= self.alpha <= 1, f"alpha must be in [0, 1], got {shown(self.alpha)}")


@dataclasses.dataclass(frozen=True)
class SpeculationConfig(AcceptanceRule):
    """How drafts are made and verified (RAPID, arXiv 2502.20330, section 3).

    Attributes:
      tail, residual, alpha: see AcceptanceRule.
      gamma: tokens drafted in a step.
      eta: transfer strength of the drafter's knowledge; 0 is plain speculative decoding, which is lossless. The paper
        uses 5-20 for a drafter of the target's size and 40-50 for a larger one.
      early_stop: a row ends its draft where the next tokens would hardly be accepted (AdaEDL, see
        drafting.early_stop); gamma is then the most that is drafted.
      stop_threshold: of early_stop, lower bound of the acceptance below which the first drafts end, in [0, 1]; it then
        follows each row's acceptance, by 0.001 a step.
      stop_confidence: a row ends its draft behind a token to which the drafter gave a smaller probability, in [0, 1];
        0 ends none so. RAPID's published evaluation has 0.1. It works beside early_stop.
      first_candidates: tokens drafted without replacement for a draft's first position: the chain's own, and others
        that are tried where it is rejected (multi-candidate speculative decoding, see verification.multi_candidate).
        More than 1 need residual "exact", unless eta is 0.
      sinks, window: tokens of its own cache that the target drafts from in "magicdec", the first ones and the last
        ones (see drafting.magicdec).
      length_rule: nothing is drafted where the measured costs of a step say that drafts would lose, and that is said
        (see rapid_jax.engine.length_rule); of methods whose drafts are a model's.
      choose_gamma: gamma is the draft length in 1..16 that is fastest by the same costs.
      expected_acceptance: of each drafted token, for both, until the Engine has seen an answer of the method.
    """

    gamma: int = 10
    eta: float = 10.0
    early_stop: bool = False
    stop_threshold: float = 0.4
    stop_confidence: float = 0.0
    first_candidates: int = 1
    sinks: int = 4
    window: int = 4096
    length_rule: bool = False
    choose_gamma: bool = False
    expected_acceptance: float = 0.8

    @property
    def rule(self) -> AcceptanceRule:
        """The part that verification needs."""
        return AcceptanceRule(**{f.name: getattr(self, f.name) for f in dataclasses.fields(AcceptanceRule)})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_integer(self.gamma) and self.gamma >= 1, f"gamma must be at least 1 token, got {shown(self.gamma)}")
        require(is_number(self.eta) and self.eta >= 0, f"eta must be a number of at least 0, got {shown(self.eta)}")
        check_most("gamma", self.gamma, MOST_ROWS, "tokens")
        check_most("eta", self.eta, 1e6)
        for name in ("early_stop", "length_rule", "choose_gamma"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be True or False, got {shown(value)}")
        require(
            is_number(self.expected_acceptance) and 0 <= self.expected_acceptance <= 1,
            f"expected_acceptance must be in [0, 1], got {shown(self.expected_acceptance)}",
        )
        for name in ("stop_threshold", "stop_confidence"):
            value = getattr(self, name)
            require(is_number(value) and 0 <= value <= 1, f"{name} must be in [0, 1], got {shown(value)}")
        require(
            is_integer(self.first_candidates) and self.first_candidates >= 1,
            f"first_candidates must be at least 1 token, got {shown(self.first_candidates)}",
        )
        check_most("first_candidates", self.first_candidates, MOST_ROWS, "tokens")
        require(is_integer(self.sinks) and self.sinks >= 1, f"sinks must be at least 1 token, got {shown(self.sinks)}")
        require(
            is_integer(self.window) and self.window > self.gamma,
            f"window must be more tokens than a draft's {self.gamma}, got {shown(self.window)}",
        )
        for name in ("sinks", "window"):
            check_most(name, getattr(self, name), MOST_TOKENS, "tokens")
        require(
            self.first_candidates == 1 or self.residual == "exact" or self.eta == 0,
            f"first_candidates {self.first_candidates} needs residual exact (or eta 0), got residual {self.residual}",
        )
