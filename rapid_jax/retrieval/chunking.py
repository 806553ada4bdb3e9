"""Splits a document into chunks of a token budget that end at paragraphs and sentences where they can."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from semantic_text_splitter import TextSplitter

# A window holds several chunks of any script; the splitter's cost grows with the square of its input otherwise.
_WINDOW_CHARACTERS_PER_TOKEN = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of a document: `document[start:end] == text`, but that U+FFFD stands for a lone surrogate.

    Attributes:
      text: the characters.
      start: offset of the first character in the document.
      end: offset behind the last character.
      num_tokens: tokens of `text` alone, without special tokens.
    """

    text: str
    start: int
    end: int
    num_tokens: int


class Chunker:
    """Cuts documents into chunks of at most `max_tokens` tokens.

    Args:
      tokenizer: a transformers tokenizer, a `tokenizers.Tokenizer`, or a function from a text to its number of
        tokens. The first two count natively and without special tokens.
      max_tokens: tokens a chunk may hold.
    """

    def __init__(self, tokenizer: Any, max_tokens: int = 512):
        self._count, native = _token_counter(tokenizer)
        if native is None:
            self._splitter = TextSplitter.from_callback(lambda text: self._count([text])[0], max_tokens, trim=False)
        else:
            self._splitter = TextSplitter.from_huggingface_tokenizer(native, max_tokens, trim=False)
        self._window = _WINDOW_CHARACTERS_PER_TOKEN * max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without special tokens."""
        return self._count([_without_surrogates(text)])[0]

    def split(self, document: str) -> list[Chunk]:
        """Chunks that tile the document: joined in order they give it back, character by character.

        A sentence longer than `max_tokens` is cut between words, a longer word between characters. A lone surrogate,
        which no tokenizer reads, becomes U+FFFD; offsets stay as they are.
        """
        document = _without_surrogates(document)
        texts: list[str] = []
        position, window = 0, self._window
        while position < len(document):
            pieces = self._splitter.chunks(document[position : position + window])
            if position + window < len(document):
                # The last piece ends where the window does: it is split again with what follows it.
                pieces.pop()
                if not pieces:
                    window *= 2
                    continue
            texts += pieces
            position += sum(map(len, pieces))
            window = self._window
        chunks, start = [], 0
        for text, num_tokens in zip(texts, self._count(texts), strict=True):
            chunks.append(Chunk(text, start, start + len(text), num_tokens))
            start += len(text)
        return chunks


def split(document: str, tokenizer: Any, max_tokens: int = 512) -> list[Chunk]:
    """Splits one document with a `Chunker` made for it; keep the `Chunker` to split several."""
    return Chunker(tokenizer, max_tokens).split(document)


def _without_surrogates(text: str) -> str:
    """The text with U+FFFD in the place of every lone surrogate, character for character."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _token_counter(tokenizer: Any) -> tuple[Callable[[Sequence[str]], list[int]], tokenizers.Tokenizer | None]:
    """A function from texts to their token counts, and the native tokenizer behind it if there is one."""
    native = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(native, tokenizers.Tokenizer):
        if native.truncation or native.padding:  # settings of an earlier call, which would falsify the counts
            native = tokenizers.Tokenizer.from_str(native.to_str())
            native.no_truncation()
            native.no_padding()
        return lambda texts: [len(e) for e in native.encode_batch_fast(texts, add_special_tokens=False)], native
    if hasattr(tokenizer, "encode"):
        return lambda texts: [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts], None
    return lambda texts: [tokenizer(text) for text in texts], None
