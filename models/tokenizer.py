"""Tokenizers of transformers (tokenizers or SentencePiece files), chat templates, stop ids and streaming text."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.hf import token_ids
from models.json_file import read_json
from models.sources import open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PROBE = "The 3 quick brown foxes, they said, jumped over 12 lazy dogs."


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back; special tokens are never added, those written out in the text are recognised.

    Attributes:
      hf: the transformers tokenizer.
      stop_ids: ids that end an answer: the eos ids of generation_config.json, config.json and the tokenizer.
    """

    hf: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included; a model's V may be larger (padded)."""
        return len(self.hf)

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token, or None."""
        return self.hf.bos_token_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex digits, of all tokens and their ids: the same where `same_vocabulary` finds no difference."""
        return hashlib.sha256(json.dumps(sorted(self.hf.get_vocab().items())).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length."""
        return self.hf(text, add_special_tokens=False, verbose=False)["input_ids"]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text, and the characters [start, end) that each was read from.

        Raises:
          ValueError: a tokenizer without offsets (one that transformers runs in pure Python).
        """
        if not self.hf.is_fast:
            raise ValueError(
                f"tokenizer {type(self.hf).__name__} gives no offsets; add a tokenizer.json to its directory"
            )
        encoding = self.hf(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoding["input_ids"], [tuple(pair) for pair in encoding["offset_mapping"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; spaces stay as they are."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render_chat(self, messages: str | Sequence[dict[str, str]]) -> str:
        """The prompt of a conversation up to where the next answer starts, special tokens written out.

        A tokenizer without a chat template gives the bos token and the messages, a blank line between them.

        Args:
          messages: role and content of each turn, the last of the user; a string is a single user turn.

        Raises:
          ValueError: the template cannot render these messages.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if not self.hf.chat_template:
            return (self.hf.bos_token or "") + "\n\n".join(turn["content"] for turn in turns)
        try:
            return str(self.hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # Jinja and the template's own raise_exception have many types
            raise ValueError(f"the chat template refused the messages: {error}") from None


class IncrementalDecoder:
    """Turns a stream of ids into a stream of text, never splitting a character.

    What is pushed, plus the flush, joins to `Tokenizer.decode` of all ids. A window of recent ids is decoded with the
    one before it, so that SentencePiece's rule for a leading space and UTF-8 over several tokens come out right.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # the latest ids whose text is out
        self._held: list[int] = []  # ids whose text is not complete yet

    def push(self, ids: Sequence[int]) -> str:
        """Takes new ids; returns the text that is now complete, possibly none."""
        self._held.extend(ids)
        text = self._pending()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._shown, self._held = self._held, []
        return text

    def flush(self) -> str:
        """The text still held back at the end of the stream."""
        text = self._pending()
        self._shown, self._held = [*self._shown, *self._held], []
        return text

    def _pending(self) -> str:
        shown = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode([*self._shown, *self._held])[len(shown) :]


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> str | None:
    """None where every token has the same id in both, else one line that names a difference.

    Speculative decoding compares the two models' distributions token by token, which needs one vocabulary.
    """
    ours, theirs = a.hf.get_vocab(), b.hf.get_vocab()
    if ours == theirs:
        return None
    differing = [token for token in sorted(ours, key=ours.__getitem__) if theirs.get(token) != ours[token]]
    if not differing:
        return f"vocabularies have {len(ours)} and {len(theirs)} tokens"
    token = differing[0]
    there = f"id {theirs[token]}" if token in theirs else "absent"
    return f"{len(differing)} of {len(ours)} tokens differ, the first is {token!r}: id {ours[token]} and {there}"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory or hub name.

    Raises:
      FileNotFoundError: no such directory, or it holds no tokenizer.
      ValueError: the files cannot be read, or transformers would split text otherwise than their SentencePiece model.
    """
    directory = open_source(path).tokenizer_files()
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise FileNotFoundError(f"{directory} holds no tokenizer; it needs one of {', '.join(_VOCABULARIES)}")
    from models.transformers_import import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and sentencepiece each have their own
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"{directory}: the tokenizer cannot be read ({type(error).__name__}: {cause})") from None
    if not (directory / "tokenizer.json").is_file() and (directory / "tokenizer.model").is_file():
        _check_sentencepiece(hf, directory / "tokenizer.model")
    return Tokenizer(hf, _stop_ids(hf, directory))


def _check_sentencepiece(hf: PreTrainedTokenizerBase, file: Path) -> None:
    """A tokenizer.model is rebuilt by transformers as byte-pair encoding, which a unigram model is not."""
    import sentencepiece

    expected = sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(_PROBE)
    if hf(_PROBE, add_special_tokens=False)["input_ids"] != expected:
        raise ValueError(f"{file} is split otherwise by transformers than by sentencepiece; add a tokenizer.json")


def _stop_ids(hf: PreTrainedTokenizerBase, directory: Path) -> tuple[int, ...]:
    ids = set() if hf.eos_token_id is None else {hf.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        if file.is_file():
            ids.update(token_ids(read_json(file).get("eos_token_id"), f"{file}: eos_token_id"))
    return tuple(sorted(ids))
