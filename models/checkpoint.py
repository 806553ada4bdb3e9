"""Weights to and from disk: Hugging Face safetensors and Orbax, straight into (sharded) arrays, without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from models import hosts, llama, registry
from models.config import ModelConfig
from models.params import Params, abstract_params, logical_params, resolve_dtype
from models.quantize import quantize_weight
from models.safetensors_io import SafetensorsDirectory, read_json, write_json, write_tensors

Progress = Callable[[int, int], None]

_ORBAX = "params"  # the Orbax checkpoint's folder in a directory that `save_orbax` wrote
_TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template*",
    "generation_config.json",
)
_COMPARE_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class _Weight:
    """One weight: its name and shape in Hugging Face's layout, its shape and logical axes in ours."""

    path: tuple[str, ...]
    name: str
    hf_shape: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    def hf_index(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """A shard of our array as a slice of Hugging Face's, where head_dim is folded into the heads before it."""
        ranges = [s.indices(n)[:2] for s, n in zip(index, self.shape, strict=True)]
        folded: list[slice] = []
        for i, (start, stop) in enumerate(ranges):
            if _folds(self.axes, i):
                before = folded.pop()
                folded.append(slice(before.start * self.shape[i], before.stop * self.shape[i]))
            else:
                folded.append(slice(start, stop))
        return tuple(folded)


def _folds(axes: tuple[str, ...], i: int) -> bool:
    return i > 0 and axes[i] == "head_dim"


def _weights(config: ModelConfig) -> list[_Weight]:
    boxed = logical_params(config, np.dtype("float32"))
    leaves = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))[0]
    weights = []
    for keys, box in leaves:
        path = tuple(key.key for key in keys)
        hf_shape: list[int] = []
        for i, size in enumerate(box.value.shape):
            hf_shape.append(hf_shape.pop() * size if _folds(box.names, i) else size)
        weights.append(_Weight(path, llama.hf_name(path), tuple(hf_shape), box.value.shape, box.names))
    return weights


def _nest(flat: dict[tuple[str, ...], jax.Array]) -> Params:
    tree: Params = {}
    for path, value in flat.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return tree


def _lookup(tree: Params, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def read_config(path: str | Path) -> ModelConfig:
    """ModelConfig of a checkpoint directory.

    Raises:
      FileNotFoundError: no config.json.
      ValueError: not JSON, an unknown architecture or a setting that is not supported; the file is named.
    """
    file = Path(path) / "config.json"
    config = read_json(file)
    try:
        return registry.config_from_hf(config)
    except ValueError as error:
        raise ValueError(str(error).replace("config.json", str(file), 1)) from None


def load_params(
    path: str | Path,
    config: ModelConfig,
    *,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
    quantize: str = "",
    progress: Progress | None = None,
) -> Params:
    """Weights of a Hugging Face safetensors directory, tensor by tensor, each device's share read alone.

    Peak host memory is the largest tensor, and so is what devices hold beside the result where it is int8. All headers
    are checked before any weight is read.

    Args:
      path: directory with model.safetensors, or several files and model.safetensors.index.json.
      config: the model that they belong to.
      dtype: of the weights in memory; None is bfloat16 on TPU and GPU, float32 on CPU.
      mesh: the devices to split them over; None for one device.
      quantize: "int8" rounds matrices as they are read (models.quantize).
      progress: called with (bytes read, bytes in all) after every tensor, in bytes of the file.

    Raises:
      FileNotFoundError: no safetensors files, or one that the index names is missing.
      ValueError: tensors missing, surplus or misshapen, a truncated file, a mesh that does not divide the model, a
        dtype that int8 weights do not go with.
    """
    path, resolved, weights = Path(path), resolve_dtype(dtype), _weights(config)
    targets = abstract_params(config, resolved, mesh, quantize)
    ignorable = ("rotary_emb.inv_freq", *(("lm_head.weight",) if config.tie_embeddings else ()))
    with SafetensorsDirectory(path) as files:
        files.check({w.name: w.hf_shape for w in weights}, ignorable, path)
        if config.tie_embeddings and "lm_head.weight" in files.headers:
            _check_tied(files, path)
        sizes = [math.prod(w.shape) * (4 if files.headers[w.name].dtype == "F32" else 2) for w in weights]
        flat, done = {}, 0
        for weight, size in zip(weights, sizes, strict=True):
            module, target = _lookup(targets, weight.path[:-1]), _lookup(targets, weight.path)
            is_int8 = target.dtype == jnp.int8
            array = _read_array(files, weight, target, resolved if is_int8 else target.dtype).block_until_ready()
            if is_int8:
                array, scale = quantize_weight(array, target, module["scale"])
                flat[(*weight.path[:-1], "scale")] = scale
            flat[weight.path] = array
            done += size
            if progress is not None:
                progress(done, sum(sizes))
    return _nest(flat)


def _read_array(
    files: SafetensorsDirectory, weight: _Weight, target: jax.ShapeDtypeStruct, dtype: np.dtype
) -> jax.Array:
    pieces: dict[str, np.ndarray] = {}  # replicas of a shard share one read

    def shard(index: Any) -> np.ndarray:
        key = str(index)
        if key not in pieces:
            shape = [len(range(*s.indices(n))) for s, n in zip(index, weight.shape, strict=True)]
            piece = files.read(weight.name, weight.hf_index(index)).reshape(shape)
            pieces[key] = piece.astype(dtype, copy=False)
        return pieces[key]

    return jax.make_array_from_callback(weight.shape, target.sharding, shard)


def _check_tied(files: SafetensorsDirectory, where: Path) -> None:
    """A tied checkpoint may hold lm_head.weight too, but only as a copy of the embedding."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    shape = files.headers[names[1]].shape
    same = files.headers[names[0]].shape == shape
    for start in range(0, shape[0], _COMPARE_ROWS) if same else ():
        rows = (slice(start, min(start + _COMPARE_ROWS, shape[0])), slice(0, shape[1]))
        same = same and np.array_equal(files.read(names[0], rows), files.read(names[1], rows))
    if not same:
        raise ValueError(
            f"{where}: {names[0]} differs from {names[1]}, but config.json says tie_word_embeddings; set it to false"
        )


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
    """
    written = registry.config_to_hf(config)
    weights = _weights(config)
    if any(_lookup(params, w.path).dtype == jnp.int8 for w in weights):
        raise ValueError("int8 weights are not written as safetensors; export the weights that they were made of")
    kept = _lookup(params, weights[0].path).dtype
    resolved = resolve_dtype(kept if dtype is None else dtype)
    path = Path(path)

    def fetch(weight: _Weight) -> np.ndarray:
        return hosts.fetch(_lookup(params, weight.path)).astype(resolved).reshape(weight.hf_shape)

    tensors = {w.name: (lambda w=w: fetch(w)) for w in weights}
    if not hosts.is_main():
        for tensor in tensors.values():  # their parts of what the main host gathers, in its order
            tensor()
        return
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
    """
    path = Path(path).absolute()
    if hosts.from_main((path / _ORBAX).exists):
        raise ValueError(f"{path / _ORBAX} already exists; give an empty directory")
    written = registry.config_to_hf(config)
    path.mkdir(parents=True, exist_ok=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(path / _ORBAX, params)
    if not hosts.is_main():
        return
    write_json(path / "config.json", written)
    if tokenizer_from is not None:
        for pattern in _TOKENIZER_FILES:
            for file in tokenizer_from.glob(pattern):
                shutil.copyfile(file, path / file.name)


def is_orbax(path: str | Path) -> bool:
    """Whether `save_orbax` wrote this directory."""
    return (Path(path) / _ORBAX).is_dir()


def restore_orbax(
    path: str | Path, mesh: Mesh | None = None, dtype: jnp.dtype | str | None = None, quantize: str = ""
) -> Params:
    """Weights of a directory that `save_orbax` wrote, read straight into their shards on any mesh.

    Args:
      path: the directory.
      mesh: the devices to split them over; None for one device.
      dtype: of what is not int8; None is bfloat16 on TPU and GPU, float32 on CPU.
      quantize: "int8" where int8 weights were saved, "" where they were not: nothing is rounded here.

    Raises:
      FileNotFoundError: no Orbax checkpoint there.
      ValueError: it is incomplete, or its weights are not those of its config.json, or not of the kind asked for.
    """
    path = Path(path).absolute()
    if not is_orbax(path):
        raise FileNotFoundError(f"{path / _ORBAX} is missing; {path} holds no Orbax checkpoint")
    config = read_config(path)
    targets = abstract_params(config, resolve_dtype(dtype), mesh, quantize)
    with _checkpointer() as checkpointer:
        try:
            stored = _shapes(checkpointer.metadata(path / _ORBAX).item_metadata.tree)
        except Exception as error:
            raise _damaged(path, error) from None
        wanted = _shapes(targets)
        is_int8 = any(name.endswith("_proj.scale") for name in stored)
        if quantize and not is_int8:
            raise ValueError(f"{path} holds Orbax weights that are not int8: int8 weights are made of safetensors")
        if is_int8 and not quantize:
            raise ValueError(f"{path} holds int8 weights: ask for int8 weights to load them")
        for name in [*wanted, *stored]:
            if stored.get(name) != wanted.get(name):
                raise ValueError(
                    f"{path}: tensor {name} has shape {stored.get(name)}, config.json asks for {wanted.get(name)}"
                )
        try:
            return checkpointer.restore(path / _ORBAX, targets)
        except Exception as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    cause = (str(error).splitlines() or [""])[0][:200]
    return ValueError(f"{path / _ORBAX} is incomplete or damaged ({type(error).__name__}: {cause}); save it again")


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(key.key for key in keys): tuple(leaf.shape) for keys, leaf in leaves}


@contextlib.contextmanager
def _checkpointer() -> Iterator:
    import orbax.checkpoint as ocp  # two seconds, needed here only

    with ocp.StandardCheckpointer() as checkpointer:
        yield checkpointer
