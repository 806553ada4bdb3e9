"""Settings of drafting and verification, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import MOST_LOOPS, MOST_ROWS, MOST_TOKENS, check_most, check_number, is_integer, require

TAIL_RULES = ("teacher", "augmented")  # see verification.target_mixing
RESIDUALS = ("rapid", "exact")  # see verification.chain
LENGTH_RULES = ("lossless", "all", "none")  # see rapid_jax.engine.length_rule


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
        check_number("alpha", self.alpha, 0, 1, "in [0, 1]")


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
      page_size, page_budget, page_renewal: what the target drafts from in "pages" and "auto" (see drafting.pages):
        tokens of a page of its own cache, lowered to what divides the slots of a shard; tokens of the context that are
        read, about; steps from one choice of pages to the next.
      length_rule: which methods draft nothing where the measured costs of a step say that drafts would lose (see
        rapid_jax.engine.length_rule): of those whose drafts are a model's "lossless" ones, "all" or "none".
      choose_gamma: gamma is the draft length in 1..16 that is fastest by the same costs.
      expected_acceptance: of each drafted token, for both, until the Engine has seen an answer of the method. In "auto"
        it is that of the target's own drafts before the first ones.
    """

    gamma: int = 10
    eta: float = 10.0
    early_stop: bool = False
    stop_threshold: float = 0.4
    stop_confidence: float = 0.0
    first_candidates: int = 1
    sinks: int = 4
    window: int = 4096
    page_size: int = 16
    page_budget: int = 1024
    page_renewal: int = 8
    length_rule: str = "lossless"
    choose_gamma: bool = False
    expected_acceptance: float = 0.8

    @property
    def rule(self) -> AcceptanceRule:
        """The part that verification needs."""
        return AcceptanceRule(**{f.name: getattr(self, f.name) for f in dataclasses.fields(AcceptanceRule)})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_integer(self.gamma) and self.gamma >= 1, f"gamma must be at least 1 token, got {shown(self.gamma)}")
        check_most("gamma", self.gamma, MOST_ROWS, "tokens (a verification reads all of them)")
        limit = "the paper's largest value is 50"
        check_number("eta", self.eta, 0, 1e6, "a number of at least 0", limit=limit)
        require(
            self.length_rule in LENGTH_RULES,
            f"length_rule must be one of {', '.join(LENGTH_RULES)}, got {shown(self.length_rule)}",
        )
        for name in ("early_stop", "choose_gamma"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be True or False, got {shown(value)}")
        for name in ("expected_acceptance", "stop_threshold", "stop_confidence"):
            check_number(name, getattr(self, name), 0, 1, "in [0, 1]")
        require(
            is_integer(self.first_candidates) and self.first_candidates >= 1,
            f"first_candidates must be at least 1 token, got {shown(self.first_candidates)}",
        )
        check_most("first_candidates", self.first_candidates, MOST_LOOPS, "tokens (each is compiled into the step)")
        require(is_integer(self.sinks) and self.sinks >= 1, f"sinks must be at least 1 token, got {shown(self.sinks)}")
        require(
            is_integer(self.window) and self.window > self.gamma,
            f"window must be more tokens than a draft's {self.gamma}, got {shown(self.window)}",
        )
        for name, unit in (("page_size", "token"), ("page_budget", "token"), ("page_renewal", "step")):
            value = getattr(self, name)
            require(is_integer(value) and value >= 1, f"{name} must be at least 1 {unit}, got {shown(value)}")
        check_most("page_size", self.page_size, MOST_ROWS, "tokens (16 to 64 are usual)")
        check_most("page_budget", self.page_budget, MOST_TOKENS, "tokens (no model has more positions)")
        check_most("page_renewal", self.page_renewal, MOST_TOKENS, "steps (no answer has more)")
        check_most("sinks", self.sinks, MOST_ROWS, "tokens (they are copied; 4 are usual)")
        check_most("window", self.window, MOST_TOKENS, "tokens (no model has more positions)")
        require(
            self.first_candidates == 1 or self.residual == "exact" or self.eta == 0,
            f"first_candidates {self.first_candidates} needs residual exact (or eta 0), got residual {self.residual}",
        )
