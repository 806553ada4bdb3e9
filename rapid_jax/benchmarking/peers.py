"""What another engine must offer to be run beside our methods: transformers.py and llama_cpp.py are such engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from models.language_model import LanguageModel
from rapid_jax.benchmarking.measurement import Contestant


class PeerEngine(Protocol):
    """Another engine that has loaded the target's checkpoint."""

    def names(self, rows: int) -> tuple[str, ...]:
        """The contestants that it has for a batch of this size; none where it takes no such batch."""
        ...

    def read(self, tokens: Sequence[int], chunk: int) -> Any:
        """Reads a document once for all cells of its length.

        Args:
          tokens: token ids.
          chunk: tokens of a forward, where the engine lets others decide.

        Returns:
          What `contestants` needs of it; good until the next document is read.
        """
        ...

    def contestants(
        self, document: Any, target: LanguageModel, questions: Sequence[Sequence[int]], new_tokens: int
    ) -> Sequence[Contestant]:
        """Those of `names`, in this order.

        Args:
          document: of `read`.
          target: our own model of the same checkpoint, for the sizes of what a step reads.
          questions: token ids behind the document, one list a row.
          new_tokens: tokens that every row decodes.
        """
        ...


class Clock:
    """Seconds that a piece of work took, known at its end."""

    seconds = 0.0
