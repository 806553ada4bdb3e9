"""The trace of an answer: who wrote each token, in which step, and what was refused there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapid_jax.decoding.state import ALONE, BONUS, DRAFTED, INSTEAD
from rapid_jax.retrieval import Passage

MODEL = "model's draft"  # the source of methods whose drafts have no other name
TARGET_WRITERS = {
    ALONE: "target, nothing was drafted",
    INSTEAD: "target, in the place of a refused token",
    BONUS: "target, behind a whole draft",
}


@dataclasses.dataclass(frozen=True)
class TracedToken:
    """A token of an answer.

    Attributes:
      id: of the vocabulary.
      text: that became certain with it; "" of a part of a character, of a stop id, and behind a stop string.
      step: the decoding step that emitted it, from 0.
      writer: a value of TARGET_WRITERS, or the name of the source that it was drafted from.
      drafted: whether it was drafted, and accepted by the target.
      refused: text of the drafted token that the target refused in its place; None where it refused none.
    """

    id: int
    text: str
    step: int
    writer: str
    drafted: bool
    refused: str | None = None


@dataclasses.dataclass(frozen=True)
class TraceStep:
    """A decoding step of an answer.

    Attributes:
      drafted: tokens that were proposed, those of all candidates together.
      accepted: of them, in the answer.
      emitted: tokens of the answer; accepted ones and at most one of the target.
    """

    drafted: int
    accepted: int
    emitted: int


@dataclasses.dataclass(frozen=True)
class Trace:
    """Where each token of an answer came from. A notebook shows it as a page.

    Attributes:
      method: name of the method.
      question: as asked.
      tokens: of the answer, its stop id included.
      steps: one for each decoding step that emitted a token.
      passages: what was retrieved.
    """

    method: str
    question: str
    tokens: tuple[TracedToken, ...]
    steps: tuple[TraceStep, ...]
    passages: tuple[Passage, ...] = ()

    @property
    def writers(self) -> dict[str, int]:
        """Tokens of the answer by who wrote them: sources of drafts first, each group by its number of tokens."""
        counts: dict[str, int] = {}
        for token in self.tokens:
            counts[token.writer] = counts.get(token.writer, 0) + 1
        target = set(TARGET_WRITERS.values())
        return dict(sorted(counts.items(), key=lambda item: (item[0] in target, -item[1], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)

    def html(self) -> str:
        """A page of its own that needs nothing else; see `tracing.page`."""
        from rapid_jax.tracing.page import page

        return page([self])

    def save(self, path: str | Path) -> None:
        """Writes the page to a file.

        Raises:
          OSError: the file cannot be written.
        """
        Path(path).write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        from rapid_jax.tracing.page import frame

        return frame([self])


def trace_of(
    method: str,
    question: str,
    token_ids: Sequence[int],
    pieces: Sequence[str],
    text: str,
    origins: np.ndarray,
    *,
    sources: Sequence[str],
    text_of: Callable[[int], str],
    passages: Sequence[Passage] = (),
) -> Trace:
    """The trace of an answer that has been decoded.

    Args:
      method, question, passages: of the answer.
      token_ids: n generated tokens.
      pieces: the text that became certain with each.
      text: of the answer, where a stop string may have ended it before the pieces end.
      origins: int32 [M,4] with M >= n, see `decoding.state.DecodeState`.
      sources: of the drafter; () for the one that is MODEL.
      text_of: a token's text.
    """
    tokens, room, origins = [], len(text), origins[: len(token_ids)]
    for token, piece, (step, writer, refused, _) in zip(token_ids, pieces, origins.tolist(), strict=True):
        shown, room = piece[:room], room - len(piece[:room])
        drafted = writer >= DRAFTED
        name = (sources or (MODEL,))[writer - DRAFTED] if drafted else TARGET_WRITERS[writer]
        tokens.append(TracedToken(token, shown, step, name, drafted, None if refused < 0 else text_of(refused)))
    _, first, emitted = np.unique(origins[:, 0], return_index=True, return_counts=True)
    drafted = np.append(np.cumsum(origins[:, 1] >= DRAFTED), 0)  # so far; the 0 is before the first token
    accepted = drafted[first + emitted - 1] - drafted[first - 1]
    steps = map(TraceStep, origins[first, 3].tolist(), accepted.tolist(), emitted.tolist())
    return Trace(method, question, tuple(tokens), tuple(steps), tuple(passages))
