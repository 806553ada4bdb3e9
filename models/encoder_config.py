"""Configuration of a sentence encoder, read from a Hugging Face checkpoint and its sentence-transformers files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from models.hf import positive_int
from models.safetensors_io import read_json
from models.sentence_files import read_sentence_settings

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
        hf = read_json(sentence.transformer / "config.json")
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
        tokenizer = _read_optional(sentence.transformer / "tokenizer_config.json")
        limit = sentence.max_seq_length or tokenizer.get("model_max_length") or positions
        return cls(
            model_type=model_type,
            **sizes,
            type_vocab_size=hf.get("type_vocab_size", 2),
            layer_norm_eps=hf.get("layer_norm_eps", 1e-12),
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


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
