"""Weights to and from disk: Hugging Face safetensors and Orbax, straight into (sharded) arrays, without torch."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models import hosts, orbax_io, registry
from models.config import ModelConfig
from models.formats import format_of
from models.loading import Weight, as_loaded, lookup, nested, weights_of
from models.params import Params, resolve_dtype
from models.progress import ProgressCallback
from models.safetensors_io import naming, replacing, write_json, write_tensors
from models.sources import open_source, orbax

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template*",
    "generation_config.json",
)


def read_config(path: str | Path) -> ModelConfig:
    """ModelConfig of a checkpoint.

    Raises:
      FileNotFoundError: no checkpoint there, or no config.json in it.
      ValueError: not JSON, an unknown architecture or a setting that is not supported; the file is named.
    """
    return open_source(path).read_config()


def load_params(
    path: str | Path,
    config: ModelConfig,
    *,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
    quantize: str = "",
    progress: ProgressCallback | None = None,
) -> Params:
    """Weights of a checkpoint, tensor by tensor, each device's share read alone.

    Peak host memory is the largest tensor, and so is what devices hold beside the result where it is quantised. All
    headers are checked before any weight is read.

    Args:
      path: as `models.sources.open_source`; of Hugging Face a directory with model.safetensors, or with several files
        and model.safetensors.index.json.
      config: the model that they belong to.
      dtype: of the weights in memory; None is bfloat16 on TPU and GPU, float32 on CPU.
      mesh: the devices to split them over; None for one device.
      quantize: format that matrices are rounded to as they are read (models.formats); "" keeps them in dtype.
      progress: called with (bytes read, bytes in all) after every tensor, in bytes of the file.

    Raises:
      FileNotFoundError: no weights there, or a file that the index names is missing.
      ValueError: tensors missing, surplus or misshapen, a damaged file, a mesh that does not divide the model, an
        unknown format or one that does not go with the dtype.
    """
    source = open_source(path)
    return source.load_params(config, dtype=dtype, mesh=mesh, quantize=quantize, progress=progress)


def export_hf(
    params: Params,
    config: ModelConfig,
    path: str | Path,
    dtype: jnp.dtype | str | None = None,
    *,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes config.json and safetensors that `load_params` and transformers read.

    Of several hosts all call it, and the main one writes.

    Args:
      params: the weights.
      config: their model.
      path: the directory; made where it does not exist.
      dtype: to write the weights in; None keeps theirs.
      shard_bytes: the most bytes of tensors in one file.

    Raises:
      ValueError: config.json cannot express the model, or the dtype is not supported.
      OSError: a full disk, or a directory that cannot be written to; one line that names it.
    """
    written = registry.config_to_hf(config)
    weights = weights_of(config)
    params = nested(as_loaded(params, config))
    narrow = next(filter(None, (format_of(lookup(params, w.path[:-1])).name for w in weights)), "")
    if narrow:
        raise ValueError(f"{narrow} weights are not written as safetensors; export the weights that they were made of")
    kept = lookup(params, weights[0].path).dtype
    resolved = resolve_dtype(kept if dtype is None else dtype)
    path = Path(path)

    def fetch(weight: Weight) -> np.ndarray:
        return hosts.fetch(lookup(params, weight.path)).astype(resolved).reshape(weight.hf_shape)

    tensors = {w.name: (lambda w=w: fetch(w)) for w in weights}
    if not hosts.is_main():
        for tensor in tensors.values():  # their parts of what the main host gathers, in its order
            tensor()
        return
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)
    sizes = {w.name: math.prod(w.shape) * resolved.itemsize for w in weights}
    write_tensors(path, tensors, sizes, shard_bytes)
    write_json(path / "config.json", {**written, "torch_dtype": resolved.name})


def save_orbax(path: str | Path, params: Params, config: ModelConfig, *, tokenizer_from: Path | None = None) -> None:
    """Writes weights as an Orbax checkpoint beside a config.json, in a directory that `load` recognises.

    Several hosts need a directory that they share: each writes its own weights, the main one all the rest.

    Args:
      path: the directory; made where it does not exist.
      params: the weights, sharded or not.
      config: their model.
      tokenizer_from: a directory whose tokenizer files and generation_config.json are copied along.

    Raises:
      ValueError: the directory already holds an Orbax checkpoint, or config.json cannot express the model.
      OSError: a full disk, or a directory that cannot be written to; one line that names it.
    """
    path = Path(path).absolute()
    if hosts.from_main((path / orbax.FOLDER).exists):
        raise ValueError(f"{path / orbax.FOLDER} already exists; give an empty directory")
    written = registry.config_to_hf(config)
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)
    orbax_io.save(path / orbax.FOLDER, nested(as_loaded(params, config)))
    if not hosts.is_main():
        return
    write_json(path / "config.json", written)
    if tokenizer_from is not None:
        for pattern in _TOKENIZER_FILES:
            for file in tokenizer_from.glob(pattern):
                with replacing(path / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def restore_orbax(
    path: str | Path, mesh: Mesh | None = None, dtype: jnp.dtype | str | None = None, quantize: str = ""
) -> Params:
    """Weights of a directory that `save_orbax` wrote, read straight into their shards on any mesh.

    Args:
      path: the directory.
      mesh: the devices to split them over; None for one device.
      dtype: of what is not quantised; None is bfloat16 on TPU and GPU, float32 on CPU.
      quantize: the format in which the weights were saved (models.formats): nothing is rounded here.

    Raises:
      FileNotFoundError: no Orbax checkpoint there.
      ValueError: it is incomplete, or its weights are not those of its config.json, or in another format.
    """
    source = orbax.claim(path)
    if source is None:
        path = Path(path).absolute()
        raise FileNotFoundError(f"{path / orbax.FOLDER} is missing; {path} holds no Orbax checkpoint")
    return source.load_params(source.read_config(), dtype=dtype, mesh=mesh, quantize=quantize)
