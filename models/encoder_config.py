"""Configuration of a sentence encoder, read from a Hugging Face checkpoint and its sentence-transformers files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from models.hf import positive_int
from models.safetensors_io import read_json

_ROBERTA = ("xlm-roberta", "roberta")
_MODEL_TYPES = ("bert", *_ROBERTA)
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
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
        hf = read_json(directory / "config.json")
        model_type = hf.get("model_type")
        if model_type not in _MODEL_TYPES:
            raise ValueError(f"{directory}: unknown encoder {model_type!r}; known are {', '.join(_MODEL_TYPES)}")
        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"{directory}: position_embedding_type must be 'absolute'")
        hidden_act = hf.get("hidden_act", "gelu")
        if hidden_act not in ACTIVATIONS:
            raise ValueError(f"{directory}: unknown hidden_act {hidden_act!r}; known are {', '.join(ACTIVATIONS)}")
        sizes = {name: positive_int(hf, name) for name in _SIZES}
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            raise ValueError(f"{directory}: hidden_size must be a multiple of num_attention_heads, got {sizes}")
        roberta = model_type in _ROBERTA
        pad_token_id = hf.get("pad_token_id")
        if pad_token_id is None:
            pad_token_id = 1 if roberta else 0
        position_offset = pad_token_id + 1 if roberta else 0
        positions = sizes["max_position_embeddings"] - position_offset
        pooling, normalize = _read_modules(directory)
        sentence = _read_optional(directory / "sentence_bert_config.json")
        tokenizer = _read_optional(directory / "tokenizer_config.json")
        limit = sentence.get("max_seq_length") or tokenizer.get("model_max_length") or positions
        return cls(
            **sizes,
            type_vocab_size=hf.get("type_vocab_size", 2),
            layer_norm_eps=hf.get("layer_norm_eps", 1e-12),
            hidden_act=hidden_act,
            pad_token_id=pad_token_id,
            position_offset=position_offset,
            pooling=pooling,
            normalize=normalize,
            max_seq_length=int(min(limit, positions)),
            lowercase=sentence.get("do_lower_case", False),
        )


def _read_modules(directory: Path) -> tuple[str, bool]:
    """Pooling and normalisation of a sentence-transformers checkpoint; mean and True for a bare encoder."""
    file = directory / "modules.json"
    if not file.is_file():
        return "mean", True
    try:
        modules = [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in json.loads(file.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a list of sentence-transformers modules ({error!r})") from None
    pooling, normalize = "mean", False
    for kind, path in modules:
        if kind == "Pooling":
            settings = read_json(directory / path / "config.json")
            modes = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
            pooling = settings.get("pooling_mode") or "+".join(_POOLINGS.get(mode, mode) for mode in modes)
            if pooling not in _POOLINGS.values():
                raise ValueError(f"{directory}: unknown pooling {pooling!r}; known are {', '.join(_POOLINGS.values())}")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ValueError(f"{directory}: unknown module {kind!r}; known are Transformer, Pooling, Normalize")
    return pooling, normalize


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
