"""Settings of copied drafts, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import MOST_LOOPS, MOST_ROWS, MOST_TOKENS, check_most, is_integer, require

_MOST_LENGTHS = 8


@dataclasses.dataclass(frozen=True)
class CopyingConfig:
    """How drafts are copied from what was read and said before (see rapid_jax.copying).

    Attributes:
      lengths: draft lengths that are compiled, growing. A step takes the one that is worth most by the measured costs
        and by what was kept of copies so far, or drafts nothing.
      places: of the latest places with the longest match so many are compared; the one that most others agree with is
        copied.
      earlier_answers: tokens of earlier answers about a document that are kept to be copied from; 0 keeps none.
    """

    lengths: tuple[int, ...] = (4, 10, 32)
    places: int = 8
    earlier_answers: int = 4096

    def __post_init__(self) -> None:
        lengths = self.lengths
        growing = isinstance(lengths, tuple) and all(is_integer(n) and n >= 1 for n in lengths)
        require(
            growing and len(lengths) > 0 and all(a < b for a, b in zip(lengths, lengths[1:], strict=False)),
            f"lengths must be growing whole numbers of at least 1, got {shown(lengths)}",
        )
        check_most("lengths", len(lengths), _MOST_LENGTHS, "numbers (each is compiled into the step)")
        check_most("lengths", max(lengths), MOST_ROWS, "tokens (a verification reads all of them)")
        require(is_integer(self.places) and self.places >= 1, f"places must be at least 1, got {shown(self.places)}")
        check_most("places", self.places, MOST_LOOPS, "(each is compiled into the step)")
        require(
            is_integer(self.earlier_answers) and self.earlier_answers >= 0,
            f"earlier_answers must be at least 0 tokens, got {shown(self.earlier_answers)}",
        )
        check_most("earlier_answers", self.earlier_answers, MOST_TOKENS, "tokens (no model has more positions)")
