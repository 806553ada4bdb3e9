"""Acceptance rules as pure functions on distributions: no model, no cache, no state."""

from rapid_jax.config.speculation import RESIDUALS, TAIL_RULES
from rapid_jax.verification.chain import (
    output_distribution,
    residual_distribution,
    total_variation_rapid,
    verify_chain,
)
from rapid_jax.verification.target_mixing import retrieval_augmented_target, target_distribution

__all__ = [
    "RESIDUALS",
    "TAIL_RULES",
    "output_distribution",
    "residual_distribution",
    "retrieval_augmented_target",
    "target_distribution",
    "total_variation_rapid",
    "verify_chain",
]
