"""Configuration of a sentence encoder, read from a Hugging Face checkpoint and its sentence-transformers files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import EPS_RANGE, MOST_PARAMETERS
from models.fields import integer, number, shown
from models.hf import size
from models.json_file import read_json
from models.sentence_files import LEAST_TOKENS, read_sentence_settings

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
_MOST_TOKENS = 10**40  # transformers writes 10**30 where a tokenizer has no limit
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Architecture of an encoder, with the names of Hugging Face's config.json, and what becomes of its output.

    Attributes:
      model_type: "bert", "roberta" or "xlm-roberta".
      position_offset: position of the first token: 0, or pad_token_id + 1 for (XLM-)RoBERTa.
      pooling: over the tokens of a text, names of `sentence_files.POOLINGS` joined with "+".
      include_prompt: a prompt's tokens take part in the pooling.
      normalize: scale sentence vectors to unit norm.
      max_seq_length: tokens of one forward, special tokens and prompt included.
      lowercase: texts are lower-cased before the tokenizer sees them.
      query_prompt, passage_prompt: text before each question and before each passage; "" is none.
    """

    model_type: str
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
    include_prompt: bool
    normalize: bool
    max_seq_length: int
    lowercase: bool
    query_prompt: str
    passage_prompt: str

    @classmethod
    def from_directory(cls, directory: Path) -> EncoderConfig:
        """Reads config.json and, where they are, the sentence-transformers files beside it.

        Without modules.json the pooling is the mean and vectors are scaled to unit norm.

        Raises:
          FileNotFoundError: no config.json.
          ValueError: an architecture, activation, pooling or module that is not known here.
        """
        sentence = read_sentence_settings(directory)
        file = sentence.transformer / "config.json"
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
        if positions < LEAST_TOKENS:
            raise ValueError(
                f"{file}: max_position_embeddings must be at least {position_offset + LEAST_TOKENS}, "
                f"got {sizes['max_position_embeddings']}"
            )
        tokenizer_limit = _tokenizer_limit(sentence.transformer / "tokenizer_config.json")
        limit = sentence.max_seq_length or tokenizer_limit or positions
        return cls(
            model_type=model_type,
            **sizes,
            type_vocab_size=integer(hf.get("type_vocab_size", 2), f"{file}: type_vocab_size", _MOST_TYPES),
            layer_norm_eps=number(hf.get("layer_norm_eps", 1e-12), f"{file}: layer_norm_eps", *EPS_RANGE),
            hidden_act=hidden_act,
            pad_token_id=pad_token_id,
            position_offset=position_offset,
            pooling=sentence.pooling,
            include_prompt=sentence.include_prompt,
            normalize=sentence.normalize,
            max_seq_length=int(min(limit, positions)),
            lowercase=sentence.lowercase,
            query_prompt=sentence.query_prompt,
            passage_prompt=sentence.passage_prompt,
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


def _tokenizer_limit(file: Path) -> int | None:
    """Tokens of a text that the tokenizer allows; None where it does not say."""
    given = (read_json(file) if file.exists() else {}).get("model_max_length")
    if given is None:
        return None
    whole = int(given) if isinstance(given, float) and given.is_integer() else given  # 1e30 means "no limit"
    return integer(whole, f"{file}: model_max_length", _MOST_TOKENS, least=LEAST_TOKENS)
