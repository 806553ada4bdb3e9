"""A checkpoint in memory: configuration, weights, tokenizer, and one plain forward."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from models import checkpoint
from models.attention.api import check_backend
from models.config import ModelConfig
from models.decoder import Decoder
from models.formats import LAYOUTS
from models.params import Params, resolve_dtype
from models.progress import ProgressCallback
from models.sources import open_source
from models.tokenizer import Tokenizer, load_tokenizer
from models.vocabulary import check_vocabulary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LanguageModel:
    """A loaded decoder.

    Attributes:
      config: its numbers.
      params: its weights, a nested dict; split over the decoder's mesh where it has one.
      decoder: the module that they belong to.
      path: the checkpoint, as `models.sources.open_source` finds it again.
    """

    config: ModelConfig
    params: Params
    decoder: Decoder
    path: Path

    def __repr__(self) -> str:
        decoder, count = self.decoder, self.config.num_parameters
        size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
        parts = [self.config.family, f"{size} parameters", np.dtype(decoder.dtype).name]
        parts += [f"{decoder.weights} weights"] if decoder.weights not in ("", *LAYOUTS) else []
        if decoder.mesh is not None:
            parts.append("mesh " + " ".join(f"{axis}={n}" for axis, n in decoder.mesh.shape.items()))
        return f"LanguageModel({', '.join(parts)}, path={str(self.path)!r})"

    def with_params(self, params: Params, decoder: Decoder | None = None) -> LanguageModel:
        """The same checkpoint with other arrays, and the decoder that they belong to where it is another one."""
        other = dataclasses.replace(self, params=params, decoder=decoder or self.decoder)
        if "tokenizer" in vars(self):
            vars(other)["tokenizer"] = self.tokenizer  # what the cached property would read again
        return other

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read at first use; raises FileNotFoundError where the directory has none."""
        return load_tokenizer(self.path)

    @functools.cached_property
    def _forward(self):
        @jax.jit
        def forward(params: Params, tokens: jax.Array) -> jax.Array:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            return self.decoder.apply({"params": params}, tokens, positions, method="forward_logits")[0]

        return forward

    def logits(self, token_ids: ArrayLike) -> jax.Array:
        """One plain causal forward from position 0: int [B,T] -> float32 [B,T,V]. Compiles once a shape.

        Raises:
          ValueError: not two axes, empty, not integers, or an id outside the vocabulary.
        """
        ids = np.asarray(token_ids)
        if ids.ndim != 2 or not ids.size:
            raise ValueError(f"token_ids must be [rows, tokens] with at least one of each, got shape {ids.shape}")
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"token_ids must be integers, got {ids.dtype}")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        mesh, rows = self.decoder.mesh, len(ids)
        spare = -rows % mesh.shape["data"] if mesh is not None else 0  # the mesh splits rows evenly
        padded = np.concatenate([ids, np.repeat(ids[-1:], spare, axis=0)]).astype(np.int32)
        return self._forward(self.params, padded)[:rows]


def load(
    path: str | Path,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
    *,
    quantize: str = "",
    backend: str | None = None,
    progress: ProgressCallback | None = None,
) -> LanguageModel:
    """Loads a LLaMA or Qwen checkpoint: Hugging Face safetensors, GGUF, or what `save_orbax` wrote.

    Args:
      path: a directory, a GGUF file, package:NAME, or a name on the Hugging Face hub.
      dtype: of weights and activations; None is bfloat16 on TPU and GPU, float32 on CPU.
      mesh: the devices to split it over, from `models.sharding.make_mesh`; None for one device.
      quantize: format of the matrices, such as "int8" (models.formats); "" keeps them in dtype.
      backend: attention backend; None picks.
      progress: called with (bytes read, bytes in all) while safetensors are read.

    Raises:
      FileNotFoundError: no such directory or hub name, or a file of the checkpoint is missing.
      ValueError: an architecture, setting, tensor or file that cannot be used, a token id beyond the embedding, or an
        unknown backend; the message names it.
    """
    check_backend(backend)
    source = open_source(path)
    config, resolved = source.read_config(), resolve_dtype(dtype)
    try:
        tokenizer = load_tokenizer(source.path)
    except FileNotFoundError:  # of weights alone there are logits
        tokenizer = None
    check_vocabulary(tokenizer, config, source.path)
    params = checkpoint.load_params(
        source.path, config, dtype=resolved, mesh=mesh, quantize=quantize, progress=progress
    )
    model = LanguageModel(config, params, Decoder(config, resolved, mesh, backend, quantize), source.path)
    if tokenizer is not None:
        vars(model)["tokenizer"] = tokenizer  # what the cached property would read again
    return model
