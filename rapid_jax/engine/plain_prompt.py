"""A text that a model goes on with, as it is: no chat template, no question."""

from __future__ import annotations

import dataclasses
import functools

from models.language_model import LanguageModel
from models.tokenizer import Tokenizer
from rapid_jax.engine.document import Document
from rapid_jax.engine.prompt import Conversation, TokenizedDocument
from rapid_jax.engine.session import Session


@dataclasses.dataclass(frozen=True)
class PlainText(Conversation):
    """A prompt of one message: its text alone, behind the token that the tokenizer begins texts with."""

    @functools.cached_property
    def _tokens(self) -> list[int]:
        (message,) = self.messages
        text, special = message["content"], self.chat.special_tokens_in_text
        tokens = [*_beginning(self.tokenizer), *self.tokenizer.encode(text, special_tokens=special)]
        if len(tokens) < 3:
            raise ValueError(f"the prompt makes {len(tokens)} token(s), three are needed: give a longer text")
        return tokens


def plain_prompt(session: Session, text: str) -> Document:
    """A text in the place of a document and a question; whatever it is asked, it is gone on with.

    Raises:
      ValueError: fewer than three tokens.
    """

    def prompt(model: LanguageModel) -> PlainText:
        return PlainText(model.tokenizer, [{"role": "user", "content": text}], session.config.chat)

    return Document(session, "", TokenizedDocument([], "", 0, 0, 0), prompt)


def _beginning(tokenizer: Tokenizer) -> list[int]:
    """The beginning-of-sequence token where the tokenizer puts one before every text."""
    bos = tokenizer.bos_id
    return [bos] if bos is not None and list(tokenizer.hf("").input_ids[:1]) == [bos] else []
