"""Text as data: encoders for which a special token that is written out in a text is nothing but its characters."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import secrets
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerBase

_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD_CATEGORIES = ("L", "M", "N", "Z", "So")
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


def clean_text(text: str) -> str:
    """The text with U+FFFD in the place of each lone surrogate, which no tokenizer and no file takes.

    Two surrogates that make up a character become that character.

    Raises:
      ValueError: not a string.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string, got {type(text).__name__}: {str(text)[:80]!r}")
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unused_mark(texts: Collection[str]) -> str:
    """A private-use character that is in none of the texts.

    Raises:
      ValueError: the texts hold all of them.
    """
    used = set().union(*map(set, texts))
    for code in (code for codes in _PRIVATE_USE for code in codes):
        if chr(code) not in used:
            return chr(code)
    raise ValueError("the texts hold every private-use character of Unicode; remove some of them")


def control_tokens(hf: PreTrainedTokenizerBase) -> dict[str, tuple[int, AddedToken]]:
    """Id and token of every added token that a chat template alone may write, by its text.

    That is each special token, and each other added token that is marked up ("<think>", "[TOOL]") or that the chat
    template names. Added words, emoji and runs of whitespace are text.
    """
    template = hf.chat_template
    source = "\n".join(template.values()) if isinstance(template, Mapping) else template or ""
    return {
        token.content: (id_, token)
        for id_, token in hf.added_tokens_decoder.items()
        if token.content and (token.special or _is_markup(token.content, source))
    }


def _is_markup(content: str, template: str) -> bool:
    if not content.strip("\u2581 \t\r\n"):
        return False
    wordlike = all(c.isspace() or c in "-'" or unicodedata.category(c).startswith(_WORD_CATEGORIES) for c in content)
    return not wordlike or content in template


@dataclasses.dataclass(frozen=True)
class Control:
    """A control token that a template has written.

    Attributes:
      id: of the token.
      text: the characters that it was read from, with the whitespace around it that the token takes in.
    """

    id: int
    text: str


class ControlSplitter:
    """Finds control tokens in a text, the longest where several fit, as `tokenizers` does."""

    def __init__(self, tokens: Mapping[str, tuple[int, AddedToken]]):
        self.tokens = tokens
        self._any = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None

    def split(self, text: str) -> Iterator[Control | str]:
        """The text in pieces: control tokens, and what lies between them (never empty)."""
        done = 0
        for match in self._any.finditer(text) if self._any else ():
            start, end = match.span()
            id_, token = self.tokens[match[0]]
            if start < done or (token.single_word and _touches_word(text, start, end)):
                continue
            if token.lstrip:
                start = max(len(text[:start].rstrip()), done)
            if token.rstrip:
                end += len(text[end:]) - len(text[end:].lstrip())
            if done < start:
                yield text[done:start]
            yield Control(id_, text[start:end])
            done = end
        if done < len(text):
            yield text[done:]

    def protect(self, text: str, mark: str, *, keep: Collection[str] = ()) -> str:
        """The text with a stand-in for each control token, so that a template's own tokens can be told from it.

        The first and last character get a stand-in where they could make up a token with what a template writes beside
        them. `restored` is the way back.

        Args:
          text: without `mark`.
          mark: a character that is in no text.
          keep: control tokens that stay as they are.
        """
        if self._any is None:
            return text
        text = self._any.sub(lambda match: match[0] if match[0] in keep else _stand_in(match[0], mark), text)
        tokens = [token for token in self.tokens if token not in keep]
        end = len(text.rstrip())
        if end and text[end - 1] != mark and any(_overlaps(text[:end], token) for token in tokens):
            text = text[: end - 1] + _stand_in(text[end - 1], mark) + text[end:]
        start = len(text) - len(text.lstrip())
        if text[start:] and text[start] != mark and any(_overlaps(token, text[start:]) for token in tokens):
            text = text[:start] + _stand_in(text[start], mark) + text[start + 1 :]
        return text


def restored(text: str, mark: str) -> str:
    """The text with what the stand-ins of `ControlSplitter.protect` stand for."""
    if mark not in text:
        return text
    return re.sub(f"{mark}([0-9a-fA-F]*){mark}", lambda match: bytes.fromhex(match[1]).decode(), text)


def _stand_in(text: str, mark: str) -> str:
    return f"{mark}{text.encode().hex()}{mark}"


def _overlaps(first: str, second: str) -> bool:
    """Whether the end of one text is the beginning of the other."""
    return any(first.endswith(second[:size]) for size in range(1, min(len(first), len(second)) + 1))


def _touches_word(text: str, start: int, end: int) -> bool:
    return bool(re.match(r"\w", text[end : end + 1]) or re.match(r"\w", text[max(start - 1, 0) : start]))


Encoded = tuple[list[int], list[tuple[int, int]]]


class PlainEncoder:
    """Encodes text as data with a fast tokenizer's own model: control tokens are not known to it.

    A tokenizer that puts a blank before a text (SentencePiece's dummy prefix) does so here at the start of a sequence,
    and behind a control token if it does so there, never within a text that is encoded in parts.
    """

    def __init__(self, backend: Any, control: Collection[str]):
        from tokenizers import Tokenizer

        values = json.loads(backend.to_str())
        values.update(post_processor=None, truncation=None, padding=None)
        _hide(values, control)
        without_blank = copy.deepcopy({name: values[name] for name in ("normalizer", "pre_tokenizer")})
        steps = {name: _without_blank(step) for name, step in without_blank.items()}
        self._start = Tokenizer.from_str(json.dumps(values))
        same = all(steps[name] == values[name] for name in steps)
        self._within = self._start if same else Tokenizer.from_str(json.dumps({**values, **steps}))
        self._behind_control = self._within if _blank_comes_first_only(values["pre_tokenizer"]) else self._start

    def encode(self, text: str, *, within: bool = False, behind_control: bool = False) -> Encoded:
        """Ids of a text, and the characters [start, end) that each was read from.

        Args:
          text: without lone surrogates.
          within: it goes on from other text, so that no blank is put before it.
          behind_control: a control token precedes it.

        Raises:
          ValueError: the tokenizer fails on this text.
        """
        backend = self._within if within else self._behind_control if behind_control else self._start
        try:
            encoding = backend.encode(text, add_special_tokens=False)
        except BaseException as error:  # a panic of tokenizers is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                cause = " ".join(str(error).split())[:200]
                raise ValueError(f"the tokenizer fails on a text of {len(text)} characters: {cause}") from None
            raise
        return encoding.ids, encoding.offsets


class SlowEncoder:
    """The same of a tokenizer that transformers runs in pure Python; it gives no offsets."""

    def __init__(self, hf: PreTrainedTokenizerBase):
        self._hf = hf

    def encode(self, text: str, *, within: bool = False, behind_control: bool = False) -> Encoded:
        """Ids of a text and no offsets; see `PlainEncoder.encode`."""
        ids = self._hf(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return ids, []


def _hide(values: dict[str, Any], control: Collection[str]) -> None:
    """Gives control tokens of a tokenizer.json names that no text holds; ids stay."""
    model = values["model"]
    vocabulary = model["vocab"]
    hidden = set(control)
    if isinstance(vocabulary, list):  # unigram: [piece, score] by id
        for entry in vocabulary:
            entry[0] = _hidden(entry[0]) if entry[0] in hidden else entry[0]
    else:
        unknown = model.get("unk_token")  # the model itself names it; it is in the vocabulary, and need not be added
        if unknown in vocabulary:
            hidden.discard(unknown)
            values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != unknown]
        model["vocab"] = {_hidden(token) if token in hidden else token: id_ for token, id_ in vocabulary.items()}
        if "merges" in model and not hidden.isdisjoint(vocabulary):
            pairs: Sequence[Sequence[str]] = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
            model["merges"] = [pair for pair in pairs if hidden.isdisjoint((*pair, "".join(pair)))]
    for token in values["added_tokens"]:  # they keep their places, from which the ids of those behind them follow
        if token["content"] in hidden:
            token["content"] = _hidden(token["content"])


def _hidden(token: str) -> str:
    return f"\U0010fffd{_NONCE}{token}"


_NONCE = secrets.token_hex(16)  # the names must not be guessed by whoever writes a document


def _without_blank(step: Any) -> Any:
    """A normalizer or pre-tokenizer that puts no blank before a text; None where nothing else is left of it."""
    if not isinstance(step, dict):
        return step
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            kept = [inner for inner in map(_without_blank, step[name]) if inner is not None]
            return {**step, name: kept} if kept else None
    kind = step.get("type")
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if kind == "ByteLevel" and "add_prefix_space" in step:
        return {**step, "add_prefix_space": False}
    return step


def _blank_comes_first_only(step: Any) -> bool:
    """Whether a pre-tokenizer puts its blank at the start of a sequence alone."""
    if not isinstance(step, dict):
        return False
    inner = step.get("pretokenizers", [])
    return step.get("prepend_scheme") == "first" or any(map(_blank_comes_first_only, inner))
