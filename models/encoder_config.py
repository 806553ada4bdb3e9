"""Configuration of a sentence encoder, read from a Hugging Face checkpoint and its sentence-transformers files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from models.config import EPS_RANGE, MOST_PARAMETERS
from models.fields import boolean, integer, number, shown
from models.hf import size
from models.json_file import read_json, read_json_value

_ROBERTA = ("xlm-roberta", "roberta")
_MODEL_TYPES = ("bert", *_ROBERTA)
_CLASSES = ("Bert", "XLMRoberta", "Roberta")  # what the names of their architectures begin with
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_MOST_TYPES = 2**16
_LEAST_TOKENS = 3  # of a text: two special tokens and one of its own
_LONGEST_PATH = 256
_MOST_TOKENS = 10**40  # transformers writes 10**30 where a tokenizer has no limit
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Architecture of an encoder, with the names of Hugging Face's config.json, and what becomes of its output.

    Attributes:
        position_offset: position of the first token: 0, or pad_token_id + 1 for (XLM-)RoBERTa.
        pooling: "cls", "mean" or "max" over the tokens of a text.
        normalize: scale sentence vectors to unit norm.
        max_seq_length: tokens of a text that are read, special tokens included.
        lowercase: texts are lower-cased before the tokenizer sees them.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str
    pad_token_id: int
    position_offset: int
    pooling: str
    normalize: bool
    max_seq_length: int
    lowercase: bool

    @classmethod
    def from_directory(cls, directory: Path) -> EncoderConfig:
        """Reads config.json and, where they are, the sentence-transformers files beside it.

        Without modules.json the pooling is the mean and vectors are scaled to unit norm.

        Raises:
            FileNotFoundError: no config.json.
            ValueError: an architecture, activation, pooling or module that is not known here.
        """
        file = directory / "config.json"
        hf = read_json(file)
        model_type = _known_model_type(hf, file)
        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"{file}: position_embedding_type must be 'absolute'")
        hidden_act = hf.get("hidden_act", "gelu")
        if hidden_act not in ACTIVATIONS:
            raise ValueError(f"{file}: unknown hidden_act {shown(hidden_act)}; known are {', '.join(ACTIVATIONS)}")
        sizes = _sizes(hf, file)
        roberta = model_type in _ROBERTA
        pad_token_id = hf.get("pad_token_id")
        if pad_token_id is None:
            pad_token_id = 1 if roberta else 0
        integer(pad_token_id, f"{file}: pad_token_id", sizes["vocab_size"] - 1, least=0)
        position_offset = pad_token_id + 1 if roberta else 0
        positions = sizes["max_position_embeddings"] - position_offset
        if positions < _LEAST_TOKENS:
            raise ValueError(
                f"{file}: max_position_embeddings must be at least {position_offset + _LEAST_TOKENS}, "
                f"got {sizes['max_position_embeddings']}"
            )
        pooling, normalize = _read_modules(directory)
        limit, lowercase = _read_text_settings(directory, positions)
        return cls(
            **sizes,
            type_vocab_size=integer(hf.get("type_vocab_size", 2), f"{file}: type_vocab_size", _MOST_TYPES),
            layer_norm_eps=number(hf.get("layer_norm_eps", 1e-12), f"{file}: layer_norm_eps", *EPS_RANGE),
            hidden_act=hidden_act,
            pad_token_id=pad_token_id,
            position_offset=position_offset,
            pooling=pooling,
            normalize=normalize,
            max_seq_length=limit,
            lowercase=lowercase,
        )


def _known_model_type(hf: Mapping[str, Any], file: Path) -> str:
    """The model_type; raises ValueError where it is unknown, or where an unknown class brings code of its own."""
    model_type = hf.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise ValueError(f"{file}: unknown encoder {shown(model_type)}; known are {', '.join(_MODEL_TYPES)}")
    named = hf.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"{file}: architectures must be a list of names, got {shown(named)}")
    if hf.get("auto_map") and not all(name.startswith(_CLASSES) for name in named):
        raise ValueError(
            f"{file}: unknown encoder {shown(named)}, and the code that its auto_map names is never run; "
            f"known are {', '.join(_MODEL_TYPES)}"
        )
    return model_type


def _sizes(hf: Mapping[str, Any], file: Path) -> dict[str, int]:
    sizes = {name: size(hf, name, str(file)) for name in _SIZES}
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if width % heads:
        raise ValueError(f"{file}: hidden_size must be a multiple of num_attention_heads, got {width} and {heads}")
    layer = width * (4 * width + 2 * sizes["intermediate_size"])
    total = sizes["num_hidden_layers"] * layer + width * (sizes["vocab_size"] + sizes["max_position_embeddings"])
    if total > MOST_PARAMETERS:
        raise ValueError(
            f"{file}: a model of these sizes has {total:.1e} parameters; at most {MOST_PARAMETERS:.0e} are supported"
        )
    return sizes


def _read_text_settings(directory: Path, positions: int) -> tuple[int, bool]:
    """Tokens of a text that are read, and whether texts are lower-cased; no file asks for more than `positions`."""
    sentence_file, tokenizer_file = directory / "sentence_bert_config.json", directory / "tokenizer_config.json"
    sentence, tokenizer = _read_optional(sentence_file), _read_optional(tokenizer_file)
    limit = positions
    for settings, name, file in (
        (sentence, "max_seq_length", sentence_file),
        (tokenizer, "model_max_length", tokenizer_file),
    ):
        given = settings.get(name)
        if given is not None:
            whole = int(given) if isinstance(given, float) and given.is_integer() else given  # 1e30 means "no limit"
            limit = min(integer(whole, f"{file}: {name}", _MOST_TOKENS, least=_LEAST_TOKENS), positions)
            break
    return limit, boolean(sentence.get("do_lower_case", False), f"{sentence_file}: do_lower_case")


def _read_modules(directory: Path) -> tuple[str, bool]:
    """Pooling and normalisation of a sentence-transformers checkpoint; mean and True for a bare encoder."""
    file = directory / "modules.json"
    if not file.exists():
        return "mean", True
    modules = read_json_value(file)
    if not isinstance(modules, list) or not all(_is_module(module) for module in modules):
        raise ValueError(f"{file} is not a list of sentence-transformers modules, each with a type and a path")
    pooling, normalize = "mean", False
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _read_pooling(directory / module["path"] / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ValueError(f"{file}: unknown module {shown(kind)}; known are Transformer, Pooling, Normalize")
    return pooling, normalize


def _is_module(module: Any) -> bool:
    """Whether an entry of modules.json has a type and a path that stays inside the checkpoint."""
    if not isinstance(module, dict) or not all(isinstance(module.get(name), str) for name in ("type", "path")):
        return False
    named = module["path"]
    path = PurePosixPath(named.replace("\\", "/"))
    return named.isprintable() and len(named) < _LONGEST_PATH and not path.is_absolute() and ".." not in path.parts


def _read_pooling(file: Path) -> str:
    settings = read_json(file)
    modes = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
    pooling = settings.get("pooling_mode") or "+".join(_POOLINGS.get(mode, mode) for mode in modes)
    if pooling not in _POOLINGS.values():
        raise ValueError(f"{file}: unknown pooling {shown(pooling)}; known are {', '.join(_POOLINGS.values())}")
    return pooling


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
