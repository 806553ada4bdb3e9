"""Drafters: one contract, and the makers of drafts behind it."""

from rapid_jax.decoding.drafter import CandidateDraft, ChainDraft, Drafter, Outcome
from rapid_jax.drafting.early_stop import EarlyStopDrafter
from rapid_jax.drafting.language_model import LanguageModelDrafter
from rapid_jax.drafting.magicdec import MagicDecDrafter
from rapid_jax.drafting.null import NullDrafter
from rapid_jax.drafting.pages import PagesDrafter
from rapid_jax.drafting.planes import PlanesDrafter

__all__ = [
    "CandidateDraft",
    "ChainDraft",
    "Drafter",
    "EarlyStopDrafter",
    "LanguageModelDrafter",
    "MagicDecDrafter",
    "NullDrafter",
    "Outcome",
    "PagesDrafter",
    "PlanesDrafter",
]
