"""Sentence encoders in Flax: BERT and XLM-RoBERTa checkpoints with the pooling of their sentence-transformers files."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from absl import logging
from flax import linen as nn
from flax import traverse_util

from models.encoder_config import EncoderConfig
from models.safetensors_io import SafetensorsDirectory

_PREFIXES = ("bert.", "roberta.")
_HEADS = ("pooler.", "cls.", "lm_head.")  # parts of published checkpoints that sentence vectors do not need
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "vocab.json")
_MIN_BUCKET = 16
_BATCH_TOKENS = 16_384  # tokens of one forward, padding included, bound the memory of attention


class Dense(nn.Module):
    """Linear map of the last axis; the weight is stored as Hugging Face stores it, [out, in]."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.normal(0.02), (self.features, x.shape[-1]), self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.dtype)
        y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
        return y + jnp.expand_dims(bias, range(y.ndim - 1))


class LayerNorm(nn.Module):
    """Layer norm of the last axis, computed in float32."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.dtype)
        centred = x.astype(jnp.float32)
        centred -= centred.mean(axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.eps)
        leading = range(x.ndim - 1)
        y = centred * scale * jnp.expand_dims(weight, leading) + jnp.expand_dims(bias, leading)
        return y.astype(self.dtype)


class Table(nn.Module):
    """Embedding table [rows, width]."""

    rows: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.normal(0.02), (self.rows, self.width), self.dtype)
        return jnp.take(weight, ids, axis=0, mode="clip")


class EncoderLayer(nn.Module):
    """One post-norm transformer layer."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps x [B, T, D] to [B, T, D]; `mask` [B, 1, 1, T] is True where a token may be attended to."""
        config, dense = self.config, functools.partial(Dense, dtype=self.dtype)
        norm = functools.partial(LayerNorm, eps=config.layer_norm_eps, dtype=self.dtype)
        heads = (*x.shape[:2], config.num_attention_heads, -1)
        query, key, value = (
            dense(config.hidden_size, name=f"attention.self.{name}")(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        attended = jax.nn.dot_product_attention(query, key, value, mask=mask).reshape(x.shape)
        attended = dense(config.hidden_size, name="attention.output.dense")(attended)
        x = norm(name="attention.output.LayerNorm")(x + attended)
        hidden = dense(config.intermediate_size, name="intermediate.dense")(x)
        hidden = _ACTIVATIONS[config.hidden_act](hidden)
        return norm(name="output.LayerNorm")(x + dense(config.hidden_size, name="output.dense")(hidden))


class Encoder(nn.Module):
    """BERT or XLM-RoBERTa. A parameter's path, joined with dots, is its name in a Hugging Face checkpoint."""

    config: EncoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] of `token_ids` [B, T], whose real tokens `mask` [B, T] marks with True."""
        config = self.config
        table = functools.partial(Table, width=config.hidden_size, dtype=self.dtype)
        words = table(config.vocab_size, name="embeddings.word_embeddings")(token_ids)
        positions = self._positions(token_ids)
        positions = table(config.max_position_embeddings, name="embeddings.position_embeddings")(positions)
        types = table(config.type_vocab_size, name="embeddings.token_type_embeddings")(jnp.zeros_like(token_ids))
        norm = LayerNorm(config.layer_norm_eps, self.dtype, name="embeddings.LayerNorm")
        x = norm(words + positions + types)
        for layer in range(config.num_hidden_layers):
            x = EncoderLayer(config, self.dtype, name=f"encoder.layer.{layer}")(x, mask[:, None, None, :])
        return x

    def _positions(self, token_ids: jax.Array) -> jax.Array:
        """Position ids [B, T]; RoBERTa counts real tokens from pad_token_id + 1 and puts padding at pad_token_id."""
        if not self.config.position_offset:
            return jnp.broadcast_to(jnp.arange(token_ids.shape[1])[None], token_ids.shape)
        real = (token_ids != self.config.pad_token_id).astype(jnp.int32)
        return jnp.cumsum(real, axis=1) * real + self.config.pad_token_id


def pool(hidden: jax.Array, mask: jax.Array, pooling: str, normalize: bool) -> jax.Array:
    """Sentence vectors float32 [B, D] of hidden states [B, T, D] whose real tokens `mask` [B, T] marks."""
    hidden = hidden.astype(jnp.float32)
    weights = mask.astype(jnp.float32)[:, :, None]
    if pooling == "cls":
        vectors = hidden[:, 0]
    elif pooling == "mean":
        vectors = (hidden * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1.0)
    else:
        vectors = jnp.where(mask[:, :, None], hidden, -jnp.inf).max(axis=1)
    if normalize:
        vectors /= jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def embed(
    params: Mapping[str, Any], token_ids: jax.Array, lengths: jax.Array, *, config: EncoderConfig, dtype: jnp.dtype
) -> jax.Array:
    """Sentence vectors float32 [B, D] of `token_ids` [B, T] whose rows have `lengths` [B] real tokens."""
    mask = jnp.arange(token_ids.shape[1])[None, :] < lengths[:, None]
    hidden = jnp.asarray(Encoder(config, dtype).apply({"params": params}, token_ids, mask))
    return pool(hidden, mask, config.pooling, config.normalize)


class SentenceEncoder:
    """An encoder with its parameters and tokenizer; made by `load_encoder`.

    Attributes:
        config: the architecture, pooling and limits.
        params: parameters of `Encoder`, in Hugging Face's orientation.
        tokenizer: the checkpoint's transformers tokenizer.
        dtype: of parameters and activations.
    """

    def __init__(self, config: EncoderConfig, params: Mapping[str, Any], tokenizer: Any, dtype: jnp.dtype):
        self.config = config
        self.params = params
        self.tokenizer = tokenizer
        self.dtype = dtype

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Sentence vectors of texts: float32 [n, D].

        Texts are sorted by length and run in batches whose sides are powers of two, so that few shapes are compiled.
        Texts over `config.max_seq_length` tokens are cut to it, and a warning says how many.
        """
        if self.config.lowercase:
            texts = [text.lower() for text in texts]
        token_ids = self._tokenize(list(texts))
        vectors = np.zeros((len(texts), self.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(token_ids[i]))
        while order:
            width = min(_bucket(len(token_ids[order[0]]), _MIN_BUCKET), self.config.max_seq_length)
            rows = min(_bucket(min(batch_size, len(order))), max(1, _BATCH_TOKENS // width))
            batch, order = order[:rows], order[rows:]
            padded = np.full((rows, width), self.config.pad_token_id, np.int32)
            lengths = np.ones(rows, np.int32)
            for row, i in enumerate(batch):
                lengths[row] = len(token_ids[i])
                padded[row, : lengths[row]] = token_ids[i]
            embedded = embed(self.params, padded, lengths, config=self.config, dtype=self.dtype)
            vectors[batch] = np.asarray(embedded)[: len(batch)]
        return vectors

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids with special tokens, at most `config.max_seq_length` a text."""
        if not texts:
            return []
        limit = self.config.max_seq_length
        token_ids = self.tokenizer(texts, verbose=False)["input_ids"]
        too_long = [i for i, ids in enumerate(token_ids) if len(ids) > limit]
        if too_long:
            longest = max(len(token_ids[i]) for i in too_long)
            message = (
                "%d of %d texts exceed the encoder's %d tokens (the longest has %d) and are cut: use smaller chunks"
            )
            logging.warning(message, len(too_long), len(texts), limit, longest)
            # The tokenizer cuts, so that the closing special token survives.
            cut = self.tokenizer([texts[i] for i in too_long], truncation=True, max_length=limit)["input_ids"]
            for i, ids in zip(too_long, cut, strict=True):
                token_ids[i] = ids
        return token_ids


def load_encoder(path: str | Path, dtype: jnp.dtype = jnp.float32) -> SentenceEncoder:
    """Loads a BERT or XLM-RoBERTa sentence encoder (BGE-M3, MiniLM, ...) from a local checkpoint directory.

    Args:
        path: directory with config.json, safetensors and tokenizer files; modules.json, 1_Pooling/config.json and
            sentence_bert_config.json of sentence-transformers are honoured.
        dtype: of parameters and activations; layer norms, pooling and the returned vectors are float32.

    Raises:
        FileNotFoundError: the directory or a file of it is missing.
        ValueError: another architecture; tensors that are missing, surplus or misshapen; a damaged file.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise FileNotFoundError(f"no encoder at {directory}: give a directory with config.json and model.safetensors")
    config = EncoderConfig.from_directory(directory)
    params = _load_parameters(directory, Encoder(config, dtype))
    return SentenceEncoder(config, params, _load_tokenizer(directory, config.vocab_size), dtype)


def _load_tokenizer(directory: Path, vocab_size: int) -> Any:
    if not any((directory / name).exists() for name in _TOKENIZER_FILES):  # transformers would make an empty one
        raise FileNotFoundError(f"{directory}: no tokenizer, none of {', '.join(_TOKENIZER_FILES)} is there")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if len(tokenizer) > vocab_size:
        raise ValueError(f"{directory}: the tokenizer has {len(tokenizer)} tokens, the encoder only {vocab_size}")
    return tokenizer


def _load_parameters(directory: Path, encoder: Encoder) -> dict[str, Any]:
    """Reads the tensors of a checkpoint, one by one, into the encoder's parameter tree."""
    token_ids, mask = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    declared = traverse_util.flatten_dict(jax.eval_shape(encoder.init, jax.random.key(0), token_ids, mask)["params"])
    with SafetensorsDirectory(directory) as files:
        stored = {_canonical(key): key for key in files.headers}
        unused = [key for name, key in stored.items() if name.startswith(_HEADS) or name in _BUFFERS]
        keys = {path: stored.get(".".join(path), ".".join(path)) for path in declared}
        files.check({keys[path]: leaf.shape for path, leaf in declared.items()}, unused, directory)
        return traverse_util.unflatten_dict(
            {
                path: jnp.asarray(files.read(keys[path], tuple(map(slice, leaf.shape))), leaf.dtype)
                for path, leaf in declared.items()
            }
        )


def _canonical(key: str) -> str:
    """A tensor's name without the checkpoint's prefix, layer norms named as today (not gamma and beta)."""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _bucket(size: int, minimum: int = 1) -> int:
    """The power of two at or above `size`."""
    return max(minimum, 1 << math.ceil(math.log2(size)))
