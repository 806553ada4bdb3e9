"""Prompts as tokens: the document and what precedes it are one part, the question and what follows the other.

The first part is the same for every question about a document, so its keys and values are computed once. The parts join
to the tokens of the whole prompt wherever one of those tokens ends where the document ends.

Text is data: the chat template alone writes special tokens. Those written out in a document, a question or a message
are encoded as the characters that they are (`ChatConfig.special_tokens_in_text` turns that off).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import string
from collections.abc import Sequence
from typing import Any

from models.chat import check_arguments
from models.language_model import LanguageModel
from models.plain_text import Control, Encoded, clean_text, unused_mark
from models.tokenizer import Tokenizer
from rapid_jax.config.chat import ChatConfig
from rapid_jax.retrieval import Passage

# A chat template that changes text changes some of this.
_ANY_TEXT = ".a <b> & 'c' \"d\"\n\n  1.  \u00e9\u2026 {{ E }} \\n #."
# Beginnings of documents, of every kind that a tokenizer may join to what precedes it.
_BEGINNINGS = (
    *string.ascii_letters,
    *string.digits,
    *string.punctuation,
    "\u00e9",
    "\u65e5",
    "\U0001f642",
    "\na",
    "\n\n",
    "\ta",
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A template around document and question, through the model's chat template.

    `head()`, `document(text)` and `question(text)` are the three parts of a prompt's tokens.

    Attributes:
      tokenizer: of the model that reads the prompt.
      template: user message with {document} before {question}; its own special tokens are read as such.
      chat: what the chat template is given, and whether special tokens in a text are read as such.
      history: earlier turns about the document, (role, content) of each, a user's and an assistant's in turn. The
        template is around the first question alone.
    """

    tokenizer: Tokenizer
    template: str
    chat: ChatConfig = dataclasses.field(default_factory=ChatConfig)
    history: tuple[tuple[str, str], ...] = ()

    def head(self) -> list[int]:
        """Tokens before the document: those that no document changes.

        Raises:
          ValueError: the chat template does not show the user's message once.
        """
        head = self._head
        return [*self.tokenizer.encode_pieces(head.complete)[0], *head.known]

    def document(self, text: str) -> Encoded:
        """Tokens of a document, or of passages in its place, behind the head.

        Args:
          text: of the document. Where the chat template strips the user's message, blanks that it starts with have no
            tokens.

        Returns:
          (ids, the characters [start, end) of `text` that each was read from). The head's last characters are read with
          the document where one token may hold both; such a token starts where the document does.

        Raises:
          ValueError: the chat template changes the text, or the tokenizer gives no offsets.
        """
        self.tokenizer.require_offsets()
        text, head, special = clean_text(text), self._head, self.chat.special_tokens_in_text
        if not head.shows_text_as_it_is:
            raise ValueError(
                "the chat template changes the text of the user's message; reading a document needs one that leaves it"
            )
        shown = self._shown(text)
        opened, size = head.opened, len(head.known)
        ids, offsets = head.run(self.tokenizer, self.tokenizer.pieces(opened + shown, special_tokens=special))
        if tuple(ids[:size]) == head.known:
            ids, offsets = ids[size:], offsets[size:]
        else:
            opened = opened[head.read :]
            pieces = self.tokenizer.pieces(opened + shown, special_tokens=special)
            ids, offsets = self.tokenizer.encode_pieces(pieces, within=True)
        before, stripped = len(opened), len(text) - len(shown)
        return ids, [(max(a - before, 0) + stripped, max(b - before, 0) + stripped) for a, b in offsets]

    def question(self, question: str) -> list[int]:
        """Tokens behind the document: earlier turns, the question and the start of the answer.

        Raises:
          ValueError: the question is empty, or gives fewer than two tokens, or the chat template shows earlier turns
            before the document.
        """
        question = clean_text(question)
        if not question.strip():
            raise ValueError("the question is empty: ask something about the document")
        turns = [dict(role=role, content=clean_text(content)) for role, content in self.history]
        turns.append(dict(role="user", content=question))
        mark, seam = self._marks(*(turn["content"] for turn in turns))
        if not self.chat.special_tokens_in_text:
            turns = self.tokenizer.protect_turns(turns, mark)
        before, after = self._rendered(seam, turns[0]["content"], turns[1:])
        if self.history and before != self._head.before:
            raise ValueError(
                "the chat template changes what stands before the document once there are earlier turns: ask questions "
                "without them"
            )
        pieces = self.tokenizer.parse(after, mark)
        tokens = self.tokenizer.encode_pieces(pieces, within=True)[0]
        if len(tokens) < 2:
            raise ValueError(
                f"the question {question!r} makes {len(tokens)} token(s) with its template; two are needed"
            )
        return tokens

    def _marks(self, *texts: str) -> tuple[str, str]:
        """Two characters that are in none of the texts that are rendered: for stand-ins, and for the document."""
        rendered = [*texts, self.template, self.tokenizer.chat_template or "", self.chat.arguments, _ANY_TEXT]
        mark = unused_mark(rendered)
        return mark, unused_mark([*rendered, mark])

    def _rendered(self, document: str, question: str, later: Sequence[dict[str, str]] = ()) -> list[str]:
        """What the chat template makes of the user's message and later ones, in two parts.

        Args:
          document: what stands in the document's place; its last character is where the text is parted.
          question: may hold stand-ins.
          later: messages behind it, which may hold stand-ins.
        """
        before, after = self.template.split("{document}")
        message = before + document + after.replace("{question}", question)
        turns = [{"role": "user", "content": message}, *later]
        rendered = self.tokenizer.render_chat(turns, arguments=self.chat.variables(), date=self.chat.date or None)
        parts = rendered.split(document[-1])
        if len(parts) != 2:
            raise ValueError(f"the chat template shows the user's message {len(parts) - 1} times; it must show it once")
        return parts

    @property
    def _head(self) -> _Head:
        prompt = dataclasses.replace(self, chat=self.chat.dated(), history=())
        return _make_head(prompt, self.tokenizer.chat_template)

    def _shown(self, text: str) -> str:
        """The document as the chat template shows it: some strip blanks at the start of the user's message."""
        blank = text[: len(text) - len(text.lstrip())]
        if not blank or self.template.partition("{document}")[0].strip():
            return text
        kept = self._rendered(blank + self._marks(blank)[1], "")[0].removeprefix(self._head.before)
        if not blank.endswith(kept):
            raise ValueError(
                "the chat template changes the blanks that a user's message starts with; strip the document"
            )
        return kept + text[len(blank) :]


@dataclasses.dataclass(frozen=True)
class _Head:
    """What precedes a document.

    Attributes:
      before: its text.
      complete: its pieces up to its last control token.
      opened: its text behind that, with which the document goes on.
      known: tokens of that text that no document changes.
      read: characters of `opened` that they hold.
      shows_text_as_it_is: whether the chat template leaves the text of the user's message.
    """

    before: str
    complete: tuple[Control | str, ...]
    opened: str
    known: tuple[int, ...] = ()
    read: int = 0
    shows_text_as_it_is: bool = True

    def run(self, tokenizer: Tokenizer, pieces: Sequence[Control | str]) -> Encoded:
        """Ids and offsets of pieces behind the last control token."""
        last = [piece for piece in self.complete[-1:] if isinstance(piece, Control)]
        ids, offsets = tokenizer.encode_pieces([*last, *pieces])
        start = sum(len(control.text) for control in last)
        return ids[len(last) :], [(a - start, b - start) for a, b in offsets[len(last) :]]


@functools.lru_cache(maxsize=64)
def _make_head(prompt: Prompt, chat_template: str | None) -> _Head:
    """The head of all prompts that are made alike; the chat template is part of the key, since it can be replaced."""
    tokenizer, seam = prompt.tokenizer, prompt._marks()[1]
    before = prompt._rendered(seam, "")[0]
    pieces = tokenizer.pieces(before, special_tokens=True)
    opened = pieces.pop() if pieces and isinstance(pieces[-1], str) else ""
    head = _Head(
        before,
        tuple(pieces),
        str(opened),
        shows_text_as_it_is=prompt._rendered(_ANY_TEXT + seam, "")[0].endswith(_ANY_TEXT),
    )
    known, read = _run_up(tokenizer, head)
    return dataclasses.replace(head, known=known, read=read)


def _run_up(tokenizer: Tokenizer, head: _Head) -> tuple[tuple[int, ...], int]:
    """Tokens of the text behind the head's last control token that no document changes, and their characters."""
    if not head.opened:
        return (), 0
    if not tokenizer.hf.is_fast:
        return tuple(head.run(tokenizer, [head.opened])[0]), len(head.opened)
    most = len(head.opened.rstrip(" "))  # a token of a word holds the blank before it
    stable: list[tuple[int, int]] | None = None
    for beginning in _BEGINNINGS:
        ids, offsets = head.run(tokenizer, [head.opened + beginning])
        ends = [(token, end) for token, (_, end) in zip(ids, offsets, strict=True) if end <= most]
        pairs = zip(ends if stable is None else stable, ends, strict=False)
        stable = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return tuple(token for token, _ in stable or []), stable[-1][1] if stable else 0


def chat_for(tokenizer: Tokenizer, chat: ChatConfig) -> ChatConfig:
    """The settings without the arguments that a model's chat template does not use: a drafter's may know fewer."""
    known = {}
    for name, value in chat.variables().items():
        with contextlib.suppress(ValueError):
            check_arguments(tokenizer.chat_template, {name: value})
            known[name] = value
    return dataclasses.replace(chat, arguments=json.dumps(known) if known else "")


@dataclasses.dataclass(frozen=True)
class Templates:
    """What a document's prompts are made with, for every model that reads one.

    Attributes:
      document: user message with {document} before {question}.
      passages: the same around retrieved passages.
      chat: what the chat template is given; each model gets the arguments that its own template uses.
    """

    document: str
    passages: str
    chat: ChatConfig

    def prompt(self, template: str, history: tuple[tuple[str, str], ...], model: LanguageModel) -> Prompt:
        """A model's prompt with one of the templates, behind earlier turns."""
        return Prompt(model.tokenizer, template, chat_for(model.tokenizer, self.chat), history)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation in the place of a document and a question: all but the last tokens are read ahead.

    Attributes:
      tokenizer: of the model that reads it.
      messages: role and content of each turn, the last of the user.
      chat: as in `Prompt`.

    Raises:
      ValueError: no message, or one that is not a role and a content, both texts.
    """

    tokenizer: Tokenizer
    messages: Sequence[dict[str, Any]]
    chat: ChatConfig = dataclasses.field(default_factory=ChatConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.messages, list | tuple) or not self.messages:
            raise ValueError(f"a conversation must be a list of at least one message, got {self.messages!r}")
        for message in self.messages:
            known = isinstance(message, dict) and all(isinstance(message.get(n), str) for n in ("role", "content"))
            if not known:
                raise ValueError(f"a message must be a role and a content, both texts, got {str(message)[:200]}")
        if self.messages[-1]["role"] != "user":
            raise ValueError("a conversation must end with a message of the user")

    @functools.cached_property
    def _tokens(self) -> list[int]:
        pieces = self.tokenizer.chat_pieces(
            self.messages,
            arguments=self.chat.variables(),
            date=self.chat.date or None,
            special_tokens=self.chat.special_tokens_in_text,
        )
        tokens = self.tokenizer.encode_pieces(pieces)[0]
        if len(tokens) < 3:
            raise ValueError(f"the conversation makes {len(tokens)} token(s) with its template; three are needed")
        return tokens

    def head(self) -> list[int]:
        """All tokens but the last two."""
        return self._tokens[:-2]

    def question(self, question: str) -> list[int]:
        """The last two tokens, with which decoding starts; the question is already in the last message."""
        return self._tokens[-2:]


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


def tokenize_document(prompt: Prompt, text: str, limit: int | tuple[int, int], truncation: str) -> TokenizedDocument:
    """Tokenises a document and leaves out its middle if it is longer than the limit.

    Args:
      prompt: that it stands in.
      text: a lone surrogate in it is read as U+FFFD.
      limit: tokens kept at most: in all, half of them at each end, or (at the start, at the end).
      truncation: "middle" or "error".

    Raises:
      ValueError: the document is empty, or too long where truncation is "error".
    """
    text = clean_text(text)
    if not text.strip():
        raise ValueError("the document is empty: give a text file with something in it")
    first, last = (limit - limit // 2, limit // 2) if isinstance(limit, int) else limit
    tokens, offsets = prompt.document(text)
    if len(tokens) <= first + last:
        return TokenizedDocument(tokens, text, 0, len(text), 0)
    if truncation == "error":
        raise ValueError(
            f"the document has {len(tokens)} tokens, the limit is {first + last}: shorten it, or set "
            "truncation='middle'"
        )
    cut = offsets[first - 1][1] if first else 0
    again = max(offsets[-last][0], cut) if last else len(text)
    kept = tokens[:first] + (tokens[-last:] if last else [])
    return TokenizedDocument(kept, text[:cut] + text[again:], len(tokens) - first - last, cut, again - cut)
