"""Tokenizers of transformers (tokenizers or SentencePiece files), chat templates, stop ids and streaming text."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import chat
from models.hf import token_ids
from models.json_file import read_json
from models.plain_text import (
    Control,
    ControlSplitter,
    Encoded,
    PlainEncoder,
    SlowEncoder,
    clean_text,
    control_tokens,
    restored,
    unused_mark,
)
from models.sources import open_source
from models.tokenizer_files import as_file_says, asks_for_code, check_patterns, check_sentencepiece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IncrementalDecoder", "Tokenizer", "clean_text", "load_tokenizer", "same_vocabulary"]

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_BYTE = re.compile("<0x[0-9a-fA-F]{2}>")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """Text to ids and back; special tokens are never added, and text is data: those written out in it are characters.

    Attributes:
      hf: the transformers tokenizer.
      stop_ids: ids that end an answer: the eos ids of generation_config.json, config.json and the tokenizer.
    """

    hf: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Tokenizer({type(self.hf).__name__}, {self.vocab_size} tokens, {self.hf.name_or_path or 'unnamed'})"

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

    @functools.cached_property
    def special_ids(self) -> dict[int, str]:
        """The special tokens by id, which `decode` leaves out."""
        return {id_: token.content for id_, token in self.hf.added_tokens_decoder.items() if token.special}

    @functools.cached_property
    def _control(self) -> ControlSplitter:
        return ControlSplitter(control_tokens(self.hf))

    @functools.cached_property
    def _plain(self) -> PlainEncoder | SlowEncoder:
        if not self.hf.is_fast:
            return SlowEncoder(self.hf)
        return PlainEncoder(self.hf.backend_tokenizer, self._control.tokens.keys())

    @property
    def chat_template(self) -> str | None:
        """Source of the chat template, the default one of several; None without one.

        Raises:
          ValueError: several, and none is the default.
        """
        if not self.hf.chat_template:
            return None
        try:
            return self.hf.get_chat_template()
        except Exception as error:
            raise ValueError(f"the tokenizer's chat template: {' '.join(str(error).split())[:300]}") from None

    def encode(self, text: str, *, special_tokens: bool = False, within: bool = False) -> list[int]:
        """Ids of a text of any length; a lone surrogate is read as U+FFFD.

        Args:
          text: what to encode.
          special_tokens: read special tokens that are written out as such, as a prompt made by hand needs it.
          within: it goes on from other text, so that a tokenizer that puts a blank before a text puts none.

        Raises:
          ValueError: not a string, or the tokenizer fails on it.
        """
        return self.encode_pieces(self.pieces(text, special_tokens=special_tokens), within=within)[0]

    def encode_with_offsets(self, text: str, *, special_tokens: bool = False) -> Encoded:
        """Ids of a text, and the characters [start, end) that each was read from; see `encode`.

        Raises:
          ValueError: as `encode`, or a tokenizer without offsets (one that transformers runs in pure Python).
        """
        self.require_offsets()
        return self.encode_pieces(self.pieces(text, special_tokens=special_tokens))

    def require_offsets(self) -> None:
        """Raises ValueError for a tokenizer without offsets."""
        if not self.hf.is_fast:
            raise ValueError(
                f"tokenizer {type(self.hf).__name__} gives no offsets; add a tokenizer.json to its directory"
            )

    def pieces(self, text: str, *, special_tokens: bool) -> list[Control | str]:
        """A text as what `encode_pieces` takes: one text, or control tokens and the texts between them."""
        text = clean_text(text)
        return list(self._control.split(text)) if special_tokens else [text]

    def encode_pieces(self, pieces: Iterable[Control | str], *, within: bool = False) -> Encoded:
        """Ids of control tokens and of the texts between them, and the characters that each was read from.

        Args:
          pieces: texts that stand side by side are encoded apart.
          within: the first piece goes on from other text.

        Returns:
          (ids, offsets [start, end) into all pieces joined); no offsets of a tokenizer that gives none.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        done, before = 0, "text" if within else "nothing"
        for piece in pieces:
            if isinstance(piece, Control):
                ids.append(piece.id)
                offsets.append((done, done + len(piece.text)))
                done, before = done + len(piece.text), "control"
                continue
            new, places = self._plain.encode(piece, within=before == "text", behind_control=before == "control")
            ids += new
            offsets += [(done + start, done + end) for start, end in places] if done else places
            done, before = done + len(piece), "text"
        return ids, offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; spaces stay as they are."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render_chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        arguments: Mapping[str, Any] | None = None,
        date: str | None = None,
    ) -> str:
        """The prompt of a conversation up to where the next answer starts, special tokens written out.

        A tokenizer without a chat template gives the bos token and the messages, a blank line between them. The text
        does not tell the template's special tokens from those in a message; `chat_pieces` does.

        Args:
          messages: role and content of each turn, the last of the user; a string is a single user turn.
          arguments: further variables of the template, such as enable_thinking.
          date: ISO day that the template takes for today's; None is today.

        Raises:
          ValueError: the template cannot render these messages, or not within its limits of time and memory.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        template = self.chat_template
        chat.check_arguments(template, arguments or {})
        if template is None:
            return (self.hf.bos_token or "") + "\n\n".join(turn["content"] for turn in turns)
        values = {
            "tools": None,
            "documents": None,
            **self.hf.special_tokens_map,
            **(arguments or {}),
            "messages": turns,
            "add_generation_prompt": True,
        }
        return chat.render(template, values, date)

    def chat_pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        arguments: Mapping[str, Any] | None = None,
        date: str | None = None,
        special_tokens: bool = False,
    ) -> list[Control | str]:
        """A conversation as `encode_pieces` takes it: the template alone has written its control tokens.

        An assistant's message keeps the added tokens that are not special and that the template looks for in it, such
        as </think>: they are the model's own.

        Args:
          messages, arguments, date: as `render_chat`.
          special_tokens: read those that are written out in the messages as well.

        Raises:
          ValueError: as `render_chat`.
        """
        turns = [{name: _cleaned(value) for name, value in turn.items()} for turn in messages]
        if special_tokens:
            return self.pieces(self.render_chat(turns, arguments=arguments, date=date), special_tokens=True)
        template = self.chat_template or ""
        mark = unused_mark([template, json.dumps([turns, arguments, self.hf.special_tokens_map], ensure_ascii=False)])
        return self.parse(self.render_chat(self.protect_turns(turns, mark), arguments=arguments, date=date), mark)

    def protect_turns(self, turns: Iterable[Mapping[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Messages as `protect` gives them; an assistant's keep the tokens that the template looks for."""
        own = self._looked_for(self.chat_template or "")
        return [
            {
                name: self.protect(value, mark, keep=own if turn.get("role") == "assistant" else ())
                for name, value in turn.items()
            }
            for turn in turns
        ]

    def protect(self, value: Any, mark: str, *, keep: Sequence[str] = ()) -> Any:
        """A text, or JSON of texts, with stand-ins for control tokens; see `plain_text.ControlSplitter.protect`."""
        if isinstance(value, str):
            return self._control.protect(value, mark, keep=keep)
        if isinstance(value, Mapping):
            return {name: self.protect(inner, mark, keep=keep) for name, inner in value.items()}
        return [self.protect(inner, mark, keep=keep) for inner in value] if isinstance(value, list) else value

    def parse(self, rendered: str, mark: str) -> list[Control | str]:
        """Control tokens and texts of what a template made of protected texts; the stand-ins become text again."""
        return [p if isinstance(p, Control) else restored(p, mark) for p in self._control.split(rendered)]

    def _looked_for(self, template: str) -> list[str]:
        """Added tokens, none of them special, that a template's code searches the messages for."""
        candidates = [content for content, (_, token) in self._control.tokens.items() if not token.special]
        return [
            content
            for content in candidates
            if re.search(rf"""(['"]){re.escape(content)}\1\s*(not\s+)?in\b""", template)
            or re.search(
                rf"""\.(r?split|startswith|endswith|replace|r?find)\(\s*['"]{re.escape(content)}['"]""", template
            )
        ]


def _cleaned(value: Any) -> Any:
    """JSON whose texts hold no lone surrogate."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {name: _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


class IncrementalDecoder:
    """Turns a stream of ids into a stream of text, never splitting a character.

    What is pushed, plus the flush, joins to `Tokenizer.decode` of all ids. A window of recent ids is decoded with the
    one before it, so that SentencePiece's rule for a leading space and UTF-8 over several tokens come out right. Bytes
    that stand for themselves wait for the end of their run, which is one text: a bad byte spoils what precedes it.

    Attributes:
      pending: text that the ids held back would make if no more came.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pending = ""
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # the latest ids whose text is out
        self._shown_text = ""
        self._held: list[int] = []  # ids whose text is not certain yet

    def push(self, ids: Sequence[int]) -> str:
        """Takes new ids; returns the text that is now certain, possibly none."""
        self._held.extend(ids)
        text = self._tokenizer.decode([*self._shown, *self._held])
        self.pending = text[len(self._shown_text) :]
        if not self.pending or self.pending.endswith("\N{REPLACEMENT CHARACTER}") or self._in_bytes():
            return ""
        return self.flush()

    def flush(self) -> str:
        """The text still held back at the end of the stream."""
        text, self.pending = self.pending, ""
        if text:
            self._shown, self._held = self._held, []
            self._shown_text = self._tokenizer.decode(self._shown)
        return text

    def _in_bytes(self) -> bool:
        """Whether the next id may belong to the same run of bytes."""
        seen = (i for i in reversed(self._held) if i not in self._tokenizer.special_ids)
        token = self._tokenizer.hf.convert_ids_to_tokens(next(seen, 0))
        return isinstance(token, str) and bool(_BYTE.fullmatch(token))


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
    """The tokenizer of a checkpoint, named as for `models.sources.open_source`.

    Raises:
      FileNotFoundError: no such directory, or it holds no tokenizer.
      ValueError: the files cannot be read, ask for code of their own to be run, hold a pattern that is too slow, or
        transformers would split text otherwise than their SentencePiece model.
    """
    directory = open_source(path).tokenizer_files()
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise FileNotFoundError(f"{directory} holds no tokenizer; it needs one of {', '.join(_VOCABULARIES)}")
    from models.transformers_import import AutoTokenizer

    file = directory / "tokenizer.json"
    if file.is_file():
        check_patterns(file)
    try:
        hf: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        hf = as_file_says(hf, file) if file.is_file() else hf
    except (
        BaseException
    ) as error:  # transformers, tokenizers and sentencepiece each have their own; a panic is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(str(error).split())[:300]
        wanted = asks_for_code(directory)
        if wanted and "trust_remote_code" in str(error):
            raise ValueError(
                f"{directory}: {wanted} asks for code of the checkpoint's own, which is never run; give a "
                "tokenizer.json and a tokenizer_class of transformers"
            ) from None
        raise ValueError(f"{directory}: the tokenizer cannot be read ({type(error).__name__}: {cause})") from None
    if not file.is_file() and (directory / "tokenizer.model").is_file():
        check_sentencepiece(hf, directory / "tokenizer.model")
    return Tokenizer(hf, _stop_ids(hf, directory))


def _stop_ids(hf: PreTrainedTokenizerBase, directory: Path) -> tuple[int, ...]:
    ids = set() if hf.eos_token_id is None else {hf.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        if file.is_file():
            ids.update(token_ids(read_json(file).get("eos_token_id"), f"{file}: eos_token_id"))
    return tuple(sorted(ids))
