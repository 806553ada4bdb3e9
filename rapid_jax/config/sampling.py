"""Settings of sampling, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import MOST_TOKENS, check_most, check_number, is_integer, require

_MOST_STOPS, _LONGEST_STOP = 64, 1024  # every new token is searched for all of their beginnings

CHECKPOINT_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty")  # of a generation_config.json


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn and when a row ends.

    Attributes:
      temperature: 0 is greedy; otherwise from 1e-6 to 1e6.
      top_k: most likely tokens kept; 0 keeps all.
      top_p: probability mass kept, in (0, 1].
      max_new_tokens: tokens generated at most.
      seed: of all random numbers; row b of a batch folds in b.
      stop: strings that end the answer; they are not part of it. At most 64 of at most 1,024 characters.
      from_checkpoint: names of settings, out of CHECKPOINT_SETTINGS, whose value the target's generation_config.json
        gives when it is loaded, in the place of the one here (see engine.generation_config). A repetition_penalty other
        than 1 is refused.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    from_checkpoint: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        right, limit = "0 (greedy) or at least 1e-6", "all tokens are equally likely there"
        check_number("temperature", self.temperature, 0, 1e6, right, limit=limit)
        require(
            self.temperature == 0 or self.temperature >= 1e-6,
            f"temperature must be {right}, got {shown(self.temperature)}",
        )
        require(
            is_integer(self.top_k) and self.top_k >= 0,
            f"top_k must be 0 (off) or a positive number, got {shown(self.top_k)}",
        )
        check_number("top_p", self.top_p, 0, 1, "in (0, 1]", above=True)
        require(
            is_integer(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be at least 1, got {shown(self.max_new_tokens)}",
        )
        check_most("top_k", self.top_k, MOST_TOKENS, "tokens (no vocabulary has more)")
        check_most("max_new_tokens", self.max_new_tokens, MOST_TOKENS, "tokens (no model has more positions)")
        require(is_integer(self.seed) and 0 <= self.seed < 2**32, f"seed must be in [0, 2**32), got {shown(self.seed)}")
        require(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            f"stop must be a tuple of strings that are not empty, got {shown(self.stop)}",
        )
        require(
            isinstance(self.from_checkpoint, tuple)
            and all(name in CHECKPOINT_SETTINGS for name in self.from_checkpoint),
            f"from_checkpoint must be names of {', '.join(CHECKPOINT_SETTINGS)}, got {shown(self.from_checkpoint)}",
        )
        require(
            len(self.stop) <= _MOST_STOPS and all(len(s) <= _LONGEST_STOP for s in self.stop),
            f"stop must be at most {_MOST_STOPS} strings of at most {_LONGEST_STOP:,} characters each, got "
            f"{len(self.stop)} of up to {max(map(len, self.stop), default=0):,}",
        )
