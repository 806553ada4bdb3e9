"""Settings of sampling, checked without JAX."""

from __future__ import annotations

import dataclasses

from rapid_jax.config.checks import is_integer, is_number, require


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn and when a row ends.

    Attributes:
      temperature: 0 is greedy.
      top_k: most likely tokens kept; 0 keeps all.
      top_p: probability mass kept, in (0, 1].
      max_new_tokens: tokens generated at most.
      seed: of all random numbers; row b of a batch folds in b.
      stop: strings that end the answer; they are not part of it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            is_number(self.temperature) and (self.temperature == 0 or self.temperature >= 1e-6),
            f"temperature must be 0 (greedy) or at least 1e-6, got {self.temperature}",
        )
        require(
            is_integer(self.top_k) and self.top_k >= 0, f"top_k must be 0 (off) or a positive number, got {self.top_k}"
        )
        require(is_number(self.top_p) and 0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        require(
            is_integer(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be at least 1, got {self.max_new_tokens}",
        )
        require(is_integer(self.seed) and 0 <= self.seed < 2**32, f"seed must be in [0, 2**32), got {self.seed}")
        require(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            f"stop must be a tuple of strings that are not empty, got {self.stop!r}",
        )
