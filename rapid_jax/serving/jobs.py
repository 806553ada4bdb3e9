"""What waits for the worker, and what it tells whoever waits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from rapid_jax.engine.answer import Answer
from rapid_jax.serving.asked import Asked
from rapid_jax.serving.errors import ApiError


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text of an answer, as soon as it is certain; it may be empty."""

    text: str


@dataclasses.dataclass(frozen=True)
class Answered:
    """The end of an answer.

    Attributes:
      answer: see there.
      document: id of the document that it is about, or "".
      cached_tokens: of the prompt, that had been read before the request came.
    """

    answer: Answer
    document: str = ""
    cached_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Returned:
    """What a call gave."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why there is no answer."""

    error: ApiError


Event = Piece | Answered | Returned | Failed


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way; the worker alone changes it, but for `cancelled`.

    Attributes:
      emit: is told every event, from the worker's thread; the last one is no Piece.
      work: a request for an answer, or a function to be called by the worker.
      deadline: of the monotonic clock; infinite for none.
      arrived: when it came, of the monotonic clock.
      cancelled: nobody waits for it any more.
      over: the last event is out.
      first_piece: when the first text was out; 0 before it.
    """

    emit: Callable[[Event], None]
    work: Asked | Callable[[], Any]
    deadline: float = float("inf")
    arrived: float = dataclasses.field(default_factory=time.monotonic)
    cancelled: bool = False
    over: bool = False
    first_piece: float = 0.0

    def piece(self, text: str) -> None:
        """Tells a piece of text; the first one even where it is empty, since decoding has begun."""
        if not self.over and (text or not self.first_piece):
            self.first_piece = self.first_piece or time.monotonic()
            self.emit(Piece(text))

    def end(self, event: Answered | Returned | Failed) -> None:
        """Tells the last event, once."""
        if not self.over:
            self.over = True
            self.emit(event)

    def fail(self, error: ApiError) -> None:
        """Ends with an error."""
        self.end(Failed(error))

    def lost(self) -> ApiError | None:
        """Why nothing more is to be done for it; None where somebody waits."""
        if self.cancelled:
            return ApiError(499, "the client has gone")
        if time.monotonic() > self.deadline:
            return ApiError(504, "the deadline is over: ask for fewer tokens, or later", code="deadline_exceeded")
        return None
