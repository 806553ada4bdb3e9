"""The settings that a question may replace, by name and type, so that a type checker finds a misspelled one."""

from __future__ import annotations

from typing import TypedDict


class Overrides(TypedDict, total=False):
    """Fields of SpeculationConfig and SamplingConfig; each has the meaning that it has there."""

    tail: str
    residual: str
    alpha: float
    gamma: int
    eta: float
    early_stop: bool
    stop_threshold: float
    stop_confidence: float
    first_candidates: int
    sinks: int
    window: int
    page_size: int
    page_budget: int
    page_renewal: int
    length_rule: str
    choose_gamma: bool
    expected_acceptance: float
    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...]
