"""An answer's text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rapid_jax.engine.answer import Answer
from rapid_jax.engine.run import Run


class Stream:
    """Iterates over the pieces of an answer's text as they are decoded, once; `answer` is there at the end."""

    def __init__(self, run: Run):
        self._run = run
        self._pieces = run.texts()
        self._then: list[Callable[[Answer], None]] = []

    def __iter__(self) -> Iterator[str]:
        for (piece,) in self._pieces:
            if piece:
                yield piece
        while self._then:
            self._then.pop(0)(self.answer)

    def read(self) -> Answer:
        """Reads the stream to its end, and returns the answer."""
        for _ in self:
            pass
        return self.answer

    def then(self, function: Callable[[Answer], None]) -> None:
        """Calls a function with the answer when the stream has been read to its end."""
        self._then.append(function)

    def stop(self) -> None:
        """Ends the answer with what has been decoded; may be called from a signal handler or another thread.

        The stream still has to be read to its end, which comes at once. The answer's finish reason is then "stopped".
        For a single host: others would not know of it.
        """
        self._run.stop()

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
          RuntimeError: the stream has not been read to its end.
        """
        return self._run.answers()[0]
