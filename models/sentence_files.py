"""The files that sentence-transformers lays beside a checkpoint: modules, pooling, limits and prompts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from models.fields import integer, shown
from models.json_file import read_json, read_json_value

PROMPTS_FILE = "config_sentence_transformers.json"
_MODULES = ("Transformer", "Pooling", "Normalize")
_PACKAGE = "sentence_transformers"
_LONGEST_PATH = 256
LEAST_TOKENS = 3  # of a text: two special tokens and one of its own
_MOST_TOKENS = 2**24
_LIMITS_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta", "distilbert", "camembert", "albert")
)
_POOLINGS = {  # names in 1_Pooling/config.json -> names here
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(_POOLINGS.values())
# Names of prompts, the first that a checkpoint has is taken; upper case and . - _ do not count.
_QUERY_NAMES = ("query", "search_query", "retrieval_query", "s2p_query", "question", "queries")
_PASSAGE_NAMES = (
    "document", "passage", "corpus", "search_document", "search_passage", "retrieval_document", "retrieval_passage",
    "documents", "passages",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SentenceSettings:
    """What sentence-transformers' files say of an encoder.

    Attributes:
      transformer: directory of config.json, the weights and the tokenizer.
      pooling: names of POOLINGS, joined with "+" where vectors are concatenated.
      include_prompt: a prompt's tokens take part in the pooling.
      normalize: sentence vectors are scaled to unit norm.
      max_seq_length: tokens of a text that are read, special tokens included; None where no file says it.
      lowercase: texts are lower-cased before the tokenizer sees them.
      query_prompt, passage_prompt: text before each question and before each passage; "" is none.
    """

    transformer: Path
    pooling: str
    include_prompt: bool
    normalize: bool
    max_seq_length: int | None
    lowercase: bool
    query_prompt: str
    passage_prompt: str


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """Reads modules.json, the pooling's config.json, sentence_bert_config.json and config_sentence_transformers.json.

    Each may be missing. Without modules.json the pooling is the mean and vectors are scaled to unit norm.

    Raises:
      ValueError: a file is damaged, or asks for what is not done here: another module, pooling or similarity.
      FileNotFoundError: a file that modules.json names is missing.
    """
    modules = _read_modules(directory)
    transformer, pooling, include_prompt, normalize = directory, "mean", True, True
    if modules:
        transformer, normalize = modules[0][1], len(modules) == 3
        pooling, include_prompt = _read_pooling(modules[1][1] / "config.json")
    max_seq_length, lowercase = _read_limits(transformer)
    query_prompt, passage_prompt = _read_prompts(directory / PROMPTS_FILE, normalize)
    return SentenceSettings(
        transformer, pooling, include_prompt, normalize, max_seq_length, lowercase, query_prompt, passage_prompt
    )


def _read_modules(directory: Path) -> list[tuple[str, Path]]:
    """Kind and directory of each module of modules.json; empty where there is none."""
    file = directory / "modules.json"
    if not file.exists():
        return []
    modules = read_json_value(file)
    if not isinstance(modules, list) or not all(_is_module(module) for module in modules):
        raise ValueError(f"{file} is not a list of sentence-transformers modules, each with a type and a path")
    entries = [(module["type"].split("."), module["path"]) for module in modules]
    for names, path in entries:
        if not _stays_inside(path):
            raise ValueError(f"{file}: path {shown(path)} leaves the checkpoint's directory")
        if names[-1] not in _MODULES:
            raise ValueError(f"{directory}: unknown module {shown(names[-1])}; known are {', '.join(_MODULES)}")
        if names[0] != _PACKAGE:
            raise ValueError(f"{file}: {'.'.join(names)!r} is code of the checkpoint's own, which is never run")
    kinds = tuple(names[-1] for names, _ in entries)
    if kinds not in (_MODULES, _MODULES[:2]):
        raise ValueError(f"{file}: modules must be Transformer, Pooling, perhaps Normalize; got {', '.join(kinds)}")
    return [(names[-1], directory / path) for names, path in entries]


def _is_module(module: Any) -> bool:
    """Whether an entry of modules.json has a type and a path."""
    return isinstance(module, dict) and all(isinstance(module.get(name), str) for name in ("type", "path"))


def _stays_inside(named: str) -> bool:
    path = PurePosixPath(named.replace("\\", "/"))
    return named.isprintable() and len(named) < _LONGEST_PATH and not path.is_absolute() and ".." not in path.parts


def _read_pooling(file: Path) -> tuple[str, bool]:
    """The pooling, and whether it takes in the tokens of a prompt."""
    settings = read_json(file)
    chosen = settings.get("pooling_mode")
    if chosen is None:
        for key in settings:
            if key.startswith("pooling_mode_"):
                _flag(settings, key, False, file)
        chosen = [_POOLINGS.get(key, key) for key, on in settings.items() if key.startswith("pooling_mode_") and on]
    names = chosen if isinstance(chosen, list) else [chosen]
    names = [name.lower().removesuffix("_tokens") if isinstance(name, str) else name for name in names]
    unknown = [name for name in names if name not in POOLINGS]
    if unknown or not names:
        got = f"unknown pooling {shown(unknown[0])}" if unknown else "no pooling is chosen"
        raise ValueError(f"{file}: {got}; known are {', '.join(POOLINGS)}")
    return "+".join(dict.fromkeys(names)), _flag(settings, "include_prompt", True, file)


def _read_limits(directory: Path) -> tuple[int | None, bool]:
    """Tokens of a text, and whether it is lower-cased."""
    file = next((directory / name for name in _LIMITS_FILES if (directory / name).exists()), None)
    if file is None:
        return None, False
    settings = read_json(file)
    limit = settings.get("max_seq_length")
    if limit is not None:
        integer(limit, f"{file}: max_seq_length", _MOST_TOKENS, least=LEAST_TOKENS)
    return limit, _flag(settings, "do_lower_case", False, file)


def _read_prompts(file: Path, normalize: bool) -> tuple[str, str]:
    """The prompts of questions and of passages, chosen as sentence-transformers chooses them.

    A prompt named for questions (`query`) or for passages (`document`, `passage`, `corpus`) comes first, then the one
    that `default_prompt_name` names. An empty one gives way to another name's.
    """
    settings = read_json(file) if file.exists() else {}
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity != "cosine" and not (similarity == "dot" and normalize):
        raise ValueError(
            f"{file}: similarity_fn_name {shown(similarity)} is not supported: chunks are found by cosine "
            "(or dot, with a Normalize module)"
        )
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"{file}: prompts must map names to texts")
    default = settings.get("default_prompt_name")
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise ValueError(f"{file}: default_prompt_name {shown(default)} is none of the prompts {shown(list(prompts))}")
    by_name = {re.sub(r"[^a-z0-9]+", "_", name.lower()): text or "" for name, text in prompts.items()}

    def choose(names: tuple[str, ...]) -> str:
        found = [by_name[name] for name in names if name in by_name]
        if not found and default is not None:
            return prompts[default] or ""
        return next((text for text in found if text), "")

    return choose(_QUERY_NAMES), choose(_PASSAGE_NAMES)


def _flag(settings: Mapping[str, Any], name: str, default: bool, file: Path) -> bool:
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file}: {name} must be true or false, got {shown(value)}")
    return value
