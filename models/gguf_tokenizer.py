"""The tokenizer of a GGUF file as Hugging Face's files, in a directory that lives as long as the process."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.fields import shown
from models.gguf_file import read_header

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.pre -> patterns that split text one after another, as the published tokenizers of these models do it.
_SPLITS = {
    "gpt-2": (_GPT2,),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), (_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _ENDS,)),
    "qwen2": (_CONTRACTIONS + _WORDS + r"|\p{N}" + _ENDS,),
    "smollm": (r"\p{N}", _GPT2),
}
_COMPOSED = ("qwen2",)  # characters are composed (NFC) before
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a word that is a token is not built of merges
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_KINDS = (_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE)
_ENDINGS = ("eos", "eot", "eom")
_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def stop_ids(metadata: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """The ids that end an answer: of a sequence, of a turn and of a message.

    Raises:
      ValueError: one of them is no id.
    """
    return tuple(sorted({i for name in _ENDINGS if (i := _token_id(metadata, name, path)) is not None}))


def _token_id(metadata: Mapping[str, Any], name: str, path: Path) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    found = metadata.get(key)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**31):
        raise ValueError(f"{path}: {key} must be a token id, got {shown(found)}")
    return found


def tokenizer_directory(path: Path) -> Path:
    """A directory with tokenizer.json or tokenizer.model and their settings, made once for a file.

    Raises:
      FileNotFoundError: the file holds no tokenizer.
      ValueError: one that is damaged, or of a kind that is not supported; one line.
    """
    state = path.stat()
    return Path(_written(path, state.st_mtime_ns, state.st_size).name)


@functools.cache
def _written(path: Path, modified: int, size: int) -> tempfile.TemporaryDirectory:
    metadata = read_header(path).metadata
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise FileNotFoundError(f"{path} holds no tokenizer; give a file with one")
    directory = tempfile.TemporaryDirectory(prefix="rapid_jax_gguf_")
    tokens, kinds = _tokens(metadata, path)
    settings: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    for name, ours in _NAMES.items():
        token_id = _token_id(metadata, name, path)
        if token_id is not None:
            if token_id >= len(tokens):
                raise ValueError(
                    f"{path}: tokenizer.ggml.{name}_token_id is {token_id}, there are {len(tokens)} tokens"
                )
            settings[ours] = tokens[token_id]
    template = metadata.get("tokenizer.chat_template")
    if template is not None:
        if not isinstance(template, str):
            raise ValueError(f"{path}: tokenizer.chat_template must be a text, got {shown(template)}")
        settings["chat_template"] = template
    elif not _adds(metadata, "bos", path):
        settings.pop("bos_token", None)  # a prompt without a template would begin with it
    target = Path(directory.name)
    if model == "gpt2":
        _write_byte_level(metadata, tokens, kinds, settings, target, path)
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    elif model == "llama":
        _write_sentencepiece(metadata, tokens, kinds, target, path)
        added = {
            str(i): {"content": tokens[i], "special": kinds[i] == _CONTROL, "normalized": False, "lstrip": False,
                     "rstrip": False, "single_word": False}
            for i, kind in enumerate(kinds) if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN)
        }  # fmt: skip
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": True, "added_tokens_decoder": added}
        settings |= {f"add_{name}_token": _adds(metadata, name, path) for name in ("bos", "eos")}
    else:
        raise ValueError(f"{path}: a tokenizer of kind {shown(model)} is not supported; known: gpt2, llama")
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    ends = list(stop_ids(metadata, path))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": ends or None}), encoding="utf-8")
    return directory


def _tokens(metadata: Mapping[str, Any], path: Path) -> tuple[list[str], list[int]]:
    """The tokens and the kind of each."""
    tokens = _list(metadata, "tokens", str, path)
    kinds = (
        _list(metadata, "token_type", int, path) if "tokenizer.ggml.token_type" in metadata else [_NORMAL] * len(tokens)
    )
    if len(kinds) != len(tokens) or not set(kinds) <= set(_KINDS):
        raise ValueError(
            f"{path}: tokenizer.ggml.token_type must give a kind from 1 to 6 for each of {len(tokens)} tokens"
        )
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"{path}: tokenizer.ggml.tokens holds a token twice")
    return tokens, kinds


def _list(metadata: Mapping[str, Any], name: str, kind: type, path: Path) -> list:
    key = f"tokenizer.ggml.{name}"
    found = metadata.get(key)
    if not isinstance(found, list) or not all(type(one) is kind for one in found):
        raise ValueError(f"{path}: {key} must be a list, one {kind.__name__} a token, got {shown(found)}")
    return found


def _flag(metadata: Mapping[str, Any], name: str, default: bool, path: Path) -> bool:
    found = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(found, bool):
        raise ValueError(f"{path}: tokenizer.ggml.{name} must be true or false, got {shown(found)}")
    return found


def _adds(metadata: Mapping[str, Any], name: str, path: Path) -> bool:
    """Whether texts begin with bos or end with eos; where the file does not say it, as llama.cpp assumes."""
    by_default = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS
    return _flag(metadata, f"add_{name}_token", name == "bos" and by_default, path)


def _write_byte_level(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], named: Mapping[str, Any], target: Path, path: Path
) -> None:
    """tokenizer.json of a byte-level byte-pair encoding."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    split = metadata.get("tokenizer.ggml.pre")
    if not isinstance(split, str) or split not in _SPLITS:
        known = ", ".join(_SPLITS)
        raise ValueError(f"{path}: tokenizer.ggml.pre {shown(split)} is not supported; known: {known}")
    merges = [tuple(merge.split(" ", 1)) for merge in _list(metadata, "merges", str, path)]
    # Unused tokens fill the embedding up; the published tokenizer has no such names.
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != _UNUSED}
    try:
        core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split in _WHOLE_WORDS))  # type: ignore[arg-type]
    except Exception as error:  # the library's own
        raise ValueError(f"{path}: tokenizer.ggml.merges are damaged: {' '.join(str(error).split())[:200]}") from None
    patterns = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _SPLITS[split]]
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [*patterns, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if split in _COMPOSED:
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    core.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED) and token
        ]
    )
    ends = {name: named.get(f"{name}_token") for name in ("bos", "eos") if _adds(metadata, name, path)}
    added = {name: token for name, token in ends.items() if token in vocabulary}
    if added:
        before, after = ([f"{added[name]}:0"] if name in added else [] for name in ("bos", "eos"))
        single = " ".join([*before, "$A:0", *after])
        core.post_processor = processors.TemplateProcessing(
            single=single,
            pair=f"{single} {single.replace(':0', ':1').replace('$A', '$B')}",
            special_tokens=[(token, vocabulary[token]) for token in added.values()],
        )
    core.save(str(target / "tokenizer.json"))


def _write_sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], target: Path, path: Path
) -> None:
    """tokenizer.model of a SentencePiece byte-pair encoding, as sentencepiece_model.proto lays it out."""
    scores = _list(metadata, "scores", float, path)
    if len(scores) != len(tokens):
        raise ValueError(f"{path}: tokenizer.ggml.scores has {len(scores)} numbers for {len(tokens)} tokens")
    if _UNKNOWN not in kinds:
        raise ValueError(f"{path}: tokenizer.ggml.token_type names no unknown token")
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = 2  # byte-pair encoding
    model.trainer_spec.vocab_size = len(tokens)
    model.trainer_spec.byte_fallback = _BYTE in kinds
    model.trainer_spec.unk_id = kinds.index(_UNKNOWN)
    for field, name in (("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding")):
        found = _token_id(metadata, name, path)
        setattr(model.trainer_spec, field, -1 if found is None else found)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = _flag(metadata, "add_space_prefix", True, path)
    model.normalizer_spec.remove_extra_whitespaces = False
    (target / "tokenizer.model").write_bytes(model.SerializeToString())
