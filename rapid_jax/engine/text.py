"""From generated tokens to text, as they come: half characters and possible stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence

from models.tokenizer import IncrementalDecoder, Tokenizer


def stop_ids_and_strings(tokenizer: Tokenizer, stop: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What ends an answer beside the model's own stop ids: special tokens by their ids, other strings by their text.

    Args:
      tokenizer: of the model that answers.
      stop: strings.

    Returns:
      (ids of those that are special tokens, such as "<|im_end|>"; the others).

    Raises:
      ValueError: a special token beside other text, which the text of an answer never shows.
    """
    special = {token: id_ for id_, token in tokenizer.special_ids.items()}
    strings = tuple(text for text in stop if text not in special)
    for text in strings:
        held = next((token for token in special if token in text), None)
        if held is not None:
            raise ValueError(f"stop {text!r} holds the special token {held!r} beside other text; give {held!r} alone")
    return tuple(sorted({special[text] for text in stop if text in special})), strings


class TextRow:
    """The text of one row.

    Attributes:
      token_ids: tokens taken so far; after a stop string, those up to the one that completed it.
      text: text so far, without stop strings and stop ids.
      pieces: the text that became certain with each token; what follows a stop string is still in them.
      stopped: a stop string was met, or the row was interrupted.
      interrupted: somebody has ended it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        """A row without tokens.

        Args:
          tokenizer: of the model that answers.
          stop: strings that end the text; see `stop_ids_and_strings`.

        Raises:
          ValueError: as `stop_ids_and_strings`.
        """
        self.token_ids: list[int] = []
        self.text = ""
        self.pieces: list[str] = []
        self.stopped = False
        self.interrupted = False
        self._own_ids, self._stop = stop_ids_and_strings(tokenizer, stop)
        self._stop_ids = frozenset(tokenizer.stop_ids)
        self._decoder = IncrementalDecoder(tokenizer)
        self._given = 0

    def push(self, tokens: Sequence[int], *, last: bool) -> str:
        """Takes new tokens and returns the text that is certain by now.

        Args:
          tokens: the next tokens of the row.
          last: no more will come.
        """
        for token in tokens:
            if self.stopped:
                break
            self.token_ids.append(token)
            self.pieces.append("")
            if token in self._own_ids:
                self._show(self._decoder.flush())
                self.stopped = True
            elif token not in self._stop_ids:
                self._show(self._decoder.push([token]))
        if last and not self.stopped:
            self._show(self._decoder.flush())
        certain = len(self.text) if last or self.stopped else len(self.text) - self._held_back()
        piece = self.text[self._given : certain]
        self._given = max(self._given, certain)
        return piece

    def interrupt(self) -> None:
        """Ends the row with the text that it has; the tokens that are still decoded are not taken."""
        if not self.stopped:
            self.interrupted = self.stopped = True

    def _show(self, piece: str) -> None:
        """Adds text; ends it before the first stop string in it, which what the decoder holds back may complete."""
        self.text += piece
        if piece:
            self.pieces[-1] += piece
        text = self.text + self._decoder.pending
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.text = text[: min(places)]
            self.stopped = True
            held_back = len(self.text) - sum(map(len, self.pieces))
            if held_back > 0:
                self.pieces[-1] += self.text[-held_back:]

    def _held_back(self) -> int:
        """Characters at the end that may be the start of a stop string."""
        lengths = (
            size for stop in self._stop for size in range(len(stop) - 1, 0, -1) if self.text.endswith(stop[:size])
        )
        return max(lengths, default=0)
