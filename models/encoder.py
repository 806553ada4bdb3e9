"""Sentence encoders in Flax: BERT and XLM-RoBERTa checkpoints with the pooling of their sentence-transformers files."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from models import hub
from models.encoder_config import EncoderConfig
from models.json_file import read_json
from models.sentence_files import read_sentence_settings
from models.sources import open_source

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
_SURROGATE = re.compile("[\ud800-\udfff]")
_OVERLAP = 8  # windows of one text overlap by this part of their room
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


class EmbeddingTable(nn.Module):
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
        table = functools.partial(EmbeddingTable, width=config.hidden_size, dtype=self.dtype)
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
    """Sentence vectors float32 [B, P*D] of hidden states [B, T, D], for P poolings of `sentence_files.POOLINGS`.

    Args:
      hidden: hidden states [B, T, D].
      mask: [B, T], True for the tokens that take part; "cls" takes the first token all the same.
      pooling: names joined with "+".
      normalize: scale the vectors to unit norm.
    """
    hidden = hidden.astype(jnp.float32)
    vectors = jnp.concatenate([_pool_one(hidden, mask, name) for name in pooling.split("+")], axis=-1)
    if normalize:
        vectors /= jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


def _pool_one(hidden: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
    """One pooling of hidden states float32 [B, T, D] under a mask [B, T]: [B, D]."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "max":
        return jnp.where(mask[:, :, None], hidden, -jnp.inf).max(axis=1)
    places = jnp.arange(1, hidden.shape[1] + 1, dtype=jnp.float32)[None, :]
    if pooling == "lasttoken":
        last = (places * mask).argmax(axis=1)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    weights = mask.astype(jnp.float32) * (places if pooling == "weightedmean" else 1.0)
    total = (hidden * weights[:, :, None]).sum(axis=1)
    size = jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return total / (jnp.sqrt(size) if pooling == "mean_sqrt_len" else size)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def embed(
    params: Mapping[str, Any],
    token_ids: jax.Array,
    lengths: jax.Array,
    left_out: jax.Array,
    *,
    config: EncoderConfig,
    dtype: jnp.dtype,
) -> jax.Array:
    """Sentence vectors float32 [B, P*D] of `token_ids` [B, T].

    Args:
      params: of `Encoder`.
      token_ids: [B, T].
      lengths: [B], real tokens of each row.
      left_out: [B], first tokens of each row that the pooling leaves out.
      config: the architecture and the pooling.
      dtype: of parameters and activations.
    """
    places = jnp.arange(token_ids.shape[1])[None, :]
    mask = places < lengths[:, None]
    hidden = jnp.asarray(Encoder(config, dtype).apply({"params": params}, token_ids, mask))
    return pool(hidden, mask & (places >= left_out[:, None]), config.pooling, config.normalize)


@dataclasses.dataclass(frozen=True)
class _Window:
    """Tokens of one forward: all of a text, or a part of it.

    Attributes:
      token_ids: with special tokens and prompt.
      left_out: first tokens that the pooling leaves out.
    """

    token_ids: list[int]
    left_out: int


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

    def encode(self, texts: Sequence[str], prompt: str = "", batch_size: int = 32) -> np.ndarray:
        """Sentence vectors of texts: float32 [n, P*D] for P poolings, one unless the checkpoint joins several.

        A text that `config.max_seq_length` tokens do not hold is read in windows of that length, which overlap by at
        least an eighth. Its vector is the mean of the windows' unit vectors, scaled to unit norm. Windows are sorted by
        length and run in batches whose sides are powers of two, so that few shapes are compiled. A lone surrogate is
        read as U+FFFD. A text without tokens has the zero vector.

        Args:
          texts: of any length.
          prompt: stands before each text and in each window; the checkpoint's own are `config.query_prompt` and
          `config.passage_prompt`.
          batch_size: windows of one forward, at most.

        Raises:
          ValueError: the prompt leaves no room for a text, or the vectors are not finite numbers.
        """
        prompt_ids = self._tokenize([prompt])[0] if prompt else []
        parts = [self._windows(ids, prompt_ids) for ids in self._tokenize([prompt + text for text in texts])]
        windows = self._embed([window for part in parts for window in part], batch_size)
        if not np.isfinite(windows).all():
            raise ValueError("the encoder's vectors are not finite: its weights hold NaN or infinity, or overflow")
        vectors = np.zeros((len(texts), windows.shape[1]), np.float32)
        start = 0
        for row, part in enumerate(parts):
            own, start = windows[start : start + len(part)], start + len(part)
            vectors[row] = own[0] if len(part) == 1 else _unit(_unit(own).mean(axis=0))
        return vectors

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError where a prompt leaves no room for a text."""
        ids, prompt_ids = self._tokenize([f"{prompt}a", prompt])
        self._windows(ids, prompt_ids)

    def _embed(self, windows: Sequence[_Window], batch_size: int) -> np.ndarray:
        """Vectors float32 [n, P*D] of windows."""
        config = self.config
        vectors = np.zeros((len(windows), config.hidden_size * len(config.pooling.split("+"))), np.float32)
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i].token_ids))
        order = [i for i in order if windows[i].token_ids]
        while order:
            width = min(_bucket(len(windows[order[0]].token_ids), _MIN_BUCKET), config.max_seq_length)
            rows = min(_bucket(min(batch_size, len(order))), max(1, _BATCH_TOKENS // width))
            batch, order = order[:rows], order[rows:]
            padded = np.full((rows, width), config.pad_token_id, np.int32)
            lengths, left_out = np.ones(rows, np.int32), np.zeros(rows, np.int32)
            for row, i in enumerate(batch):
                lengths[row], left_out[row] = len(windows[i].token_ids), windows[i].left_out
                padded[row, : lengths[row]] = windows[i].token_ids
            embedded = embed(self.params, padded, lengths, left_out, config=config, dtype=self.dtype)
            vectors[batch] = np.asarray(embedded)[: len(batch)]
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens; special tokens that are written out are read as the text they are."""
        texts = [_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text).strip() for text in texts]
        if self.config.lowercase:
            texts = [text.lower() for text in texts]
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, truncation=False, padding=False, verbose=False
        )["input_ids"]
        return ids

    def _windows(self, ids: list[int], prompt: list[int]) -> list[_Window]:
        """The windows of a text whose ids [n] begin with those of its prompt; several are all of full length."""
        before, after = self._special
        shared = next((i for i, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]), len(prompt))
        head, body = ids[:shared], ids[shared:]
        left_out = len(before) + len(prompt) if prompt and not self.config.include_prompt else 0
        limit = self.config.max_seq_length
        room = limit - len(before) - len(after) - len(head)
        if room < 1:
            raise ValueError(
                f"the encoder reads {limit} tokens, and its special tokens and a prompt of {len(prompt)} tokens leave "
                "no room for a text: give a shorter prompt"
            )
        beyond = max(len(body) - room, 0)
        steps = math.ceil(beyond / (room - room // _OVERLAP))
        starts = [beyond * i // steps for i in range(steps)] + [beyond]
        return [_Window([*before, *head, *body[start : start + room], *after], left_out) for start in starts]

    @functools.cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        """Special tokens before and behind a text."""
        for probe in ("a", "the", "1", ".", *self.tokenizer.get_vocab()):
            plain = self.tokenizer(probe, add_special_tokens=False)["input_ids"]
            whole = self.tokenizer(probe)["input_ids"]
            starts = [i for i in range(len(whole)) if plain and whole[i : i + len(plain)] == plain]
            if starts:
                return whole[: starts[0]], whole[starts[0] + len(plain) :]
        raise ValueError("the encoder's tokenizer reads no token from any text")


def load_encoder(path: str | Path, dtype: jnp.dtype = jnp.float32) -> SentenceEncoder:
    """Loads a BERT or XLM-RoBERTa sentence encoder (BGE-M3, MiniLM, ...).

    Args:
      path: directory with config.json, safetensors and tokenizer files, or a name of one that `models.hub.resolve`
        finds; the files of sentence-transformers are honoured (`models.sentence_files`).
      dtype: of parameters and activations; layer norms, pooling and the returned vectors are float32.

    Raises:
      FileNotFoundError: the directory or a file of it is missing.
      ValueError: another architecture; tensors that are missing, surplus or misshapen; a damaged file.
    """
    try:
        directory = hub.resolve(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no encoder at {path}: {error}") from None
    if not directory.is_dir():
        raise FileNotFoundError(f"no encoder at {path}: give a directory with config.json and model.safetensors")
    config = EncoderConfig.from_directory(directory)
    directory = read_sentence_settings(directory).transformer
    for file in (directory / "config.json", directory / "tokenizer_config.json"):
        if file.is_file() and read_json(file).get("auto_map"):
            raise ValueError(f"{file}: auto_map names code of the checkpoint's own, which is never run")
    params = _load_parameters(directory, Encoder(config, dtype))
    return SentenceEncoder(config, params, _load_tokenizer(directory, config.vocab_size), dtype)


def _load_tokenizer(directory: Path, vocab_size: int) -> Any:
    if not any((directory / name).exists() for name in _TOKENIZER_FILES):  # transformers would make an empty one
        raise FileNotFoundError(f"{directory}: no tokenizer, none of {', '.join(_TOKENIZER_FILES)} is there")
    from models.transformers_import import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers, tokenizers and sentencepiece each have their own
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"{directory}: the tokenizer cannot be read ({type(error).__name__}: {cause})") from None
    if len(tokenizer) > vocab_size:
        raise ValueError(f"{directory}: the tokenizer has {len(tokenizer)} tokens, the encoder only {vocab_size}")
    return tokenizer


def _load_parameters(directory: Path, encoder: Encoder) -> dict[str, Any]:
    """Reads the tensors of a checkpoint, one by one, into the encoder's parameter tree."""
    token_ids, mask = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    declared = traverse_util.flatten_dict(jax.eval_shape(encoder.init, jax.random.key(0), token_ids, mask)["params"])
    with open_source(directory).tensors() as files:
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


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] scaled to unit norm."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
