"""Prompts as tokens: the document and what precedes it are one part, the question and what follows the other.

The first part is the same for every question about a document, so its keys and values are computed once. The two parts
are tokenised apart: a token never spans the end of the document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from models.tokenizer import Tokenizer
from rapid_jax.retrieval import Passage

_DOCUMENT = "\N{OBJECT REPLACEMENT CHARACTER}DOCUMENT\N{OBJECT REPLACEMENT CHARACTER}"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A template around document and question, through the model's chat template.

    Attributes:
      tokenizer: of the model that reads the prompt.
      template: user message with {document} before {question}.
    """

    tokenizer: Tokenizer
    template: str

    def _parts(self, question: str) -> tuple[str, str]:
        before, after = self.template.split("{document}")
        message = before + _DOCUMENT + after.replace("{question}", question)
        rendered = self.tokenizer.render_chat(message)
        if rendered.count(_DOCUMENT) != 1:
            raise ValueError(
                f"the chat template shows the user's message {rendered.count(_DOCUMENT)} times; it must show it once"
            )
        head, tail = rendered.split(_DOCUMENT)
        return head, tail

    def head(self) -> list[int]:
        """Tokens before the document."""
        return self.tokenizer.encode(self._parts("")[0])

    def question(self, question: str) -> list[int]:
        """Tokens behind the document: the question and the start of the answer.

        Raises:
          ValueError: the question is empty, or gives fewer than two tokens.
        """
        if not question.strip():
            raise ValueError("the question is empty: ask something about the document")
        tokens = self.tokenizer.encode(self._parts(question)[1])
        if len(tokens) < 2:
            raise ValueError(
                f"the question {question!r} makes {len(tokens)} token(s) with its template; two are needed"
            )
        return tokens


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation in the place of a document and a question: all but the last tokens are read ahead.

    Attributes:
      tokenizer: of the model that reads it.
      messages: role and content of each turn, the last of the user.
    """

    tokenizer: Tokenizer
    messages: Sequence[dict[str, str]]

    def _tokens(self) -> list[int]:
        tokens = self.tokenizer.encode(self.tokenizer.render_chat(self.messages))
        if len(tokens) < 3:
            raise ValueError(f"the conversation makes {len(tokens)} token(s) with its template; three are needed")
        return tokens

    def head(self) -> list[int]:
        """All tokens but the last two."""
        return self._tokens()[:-2]

    def question(self, question: str) -> list[int]:
        """The last two tokens, with which decoding starts; the question is already in the last message."""
        return self._tokens()[-2:]


@dataclasses.dataclass(frozen=True)
class TokenizedDocument:
    """A document as the target reads it.

    Attributes:
      tokens: ids, truncated to the limit.
      text: the text that these tokens stand for.
      truncated_tokens: how many tokens were left out of the middle.
      cut: character of `text` at which the middle is missing; its length where nothing is.
      cut_characters: characters that are missing there.
    """

    tokens: list[int]
    text: str
    truncated_tokens: int
    cut: int
    cut_characters: int

    def in_source(self, passage: Passage) -> Passage:
        """The passage with offsets into the document as it was given; one across the cut spans what is missing."""
        start, end = passage.start, passage.end
        return dataclasses.replace(
            passage,
            start=start + self.cut_characters * (start >= self.cut),
            end=end + self.cut_characters * (end > self.cut),
        )


def tokenize_document(
    tokenizer: Tokenizer, text: str, limit: int | tuple[int, int], truncation: str
) -> TokenizedDocument:
    """Tokenises a document and leaves out its middle if it is longer than the limit.

    Args:
      limit: tokens kept at most: in all, half of them at each end, or (at the start, at the end).
      truncation: "middle" or "error".

    Raises:
      ValueError: the document is empty, or too long where truncation is "error".
    """
    if not text.strip():
        raise ValueError("the document is empty: give a text file with something in it")
    first, last = (limit - limit // 2, limit // 2) if isinstance(limit, int) else limit
    tokens, offsets = tokenizer.encode_with_offsets(text)
    if len(tokens) <= first + last:
        return TokenizedDocument(tokens, text, 0, len(text), 0)
    if truncation == "error":
        raise ValueError(
            f"the document has {len(tokens)} tokens, the limit is {first + last}: shorten it, or set "
            "truncation='middle'"
        )
    cut = offsets[first - 1][1] if first else 0
    again = offsets[-last][0] if last else len(text)
    kept = tokens[:first] + (tokens[-last:] if last else [])
    return TokenizedDocument(kept, text[:cut] + text[again:], len(tokens) - first - last, cut, again - cut)
