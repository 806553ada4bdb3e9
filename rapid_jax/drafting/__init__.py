"""Drafters: one contract, and the makers of drafts behind it."""

from rapid_jax.drafting.base import Draft, Drafter
from rapid_jax.drafting.language_model import LanguageModelDrafter
from rapid_jax.drafting.null import NullDrafter

__all__ = ["Draft", "Drafter", "LanguageModelDrafter", "NullDrafter"]
