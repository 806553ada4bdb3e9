"""Named tensors -> the (sharded) arrays of a decoder: each device's share is read alone, tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from models import llama
from models.config import ModelConfig
from models.formats import format_of
from models.formats.transposed import transposed
from models.params import Params, abstract_params, logical_params, resolve_dtype
from models.progress import ProgressCallback
from models.sharding import spec
from models.sources.base import Tensors

_COMPARE_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight: its name and shape in Hugging Face's layout, its shape and logical axes in ours."""

    path: tuple[str, ...]
    name: str
    hf_shape: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Of a matrix, how many of its first axes products write: "embed" alone, or all axes before it."""
        return 1 if self.axes[0] == "embed" else len(self.axes) - 1

    def placed(self, mesh: Mesh | None, dtype: np.dtype) -> jax.ShapeDtypeStruct:
        """Its shape and where it lies."""
        split = SingleDeviceSharding(jax.devices()[0]) if mesh is None else NamedSharding(mesh, spec(self.axes))
        return jax.ShapeDtypeStruct(self.shape, dtype, sharding=split)

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


def weights_of(config: ModelConfig) -> list[Weight]:
    """All weights of a model, as they are where nothing is quantised."""
    boxed = logical_params(config, np.dtype("float32"))
    leaves = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))[0]
    weights = []
    for keys, box in leaves:
        path = tuple(key.key for key in keys)
        hf_shape: list[int] = []
        for i, size in enumerate(box.value.shape):
            hf_shape.append(hf_shape.pop() * size if _folds(box.names, i) else size)
        weights.append(Weight(path, llama.hf_name(path), tuple(hf_shape), box.value.shape, box.names))
    return weights


def nested(flat: Iterable[tuple[tuple[str, ...], jax.Array]]) -> Params:
    """The nested dict of arrays with their paths."""
    tree: Params = {}
    for path, value in flat:
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return tree


def as_loaded(params: Params, config: ModelConfig) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
    """Path and array of each weight as it was loaded, one by one: [out, in] where they lie [in, out]."""
    outputs = {weight.path: weight.outputs for weight in weights_of(config)}
    for keys, array in jax.tree_util.tree_leaves_with_path(params):
        *parents, name = (key.key for key in keys)
        if name == "kernel":
            name = "weight"
            array = transposed(array, array.ndim - outputs[*parents, name])
        yield (*parents, name), array


def lookup(tree: Params, path: tuple[str, ...]) -> Any:
    """What lies at a path of a nested dict."""
    for part in path:
        tree = tree[part]
    return tree


def load_tensors(
    tensors: Tensors,
    config: ModelConfig,
    where: Path,
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    quantize: str = "",
    progress: ProgressCallback | None = None,
) -> Params:
    """The weights of a model, as `models.checkpoint.load_params`, from open tensors.

    Args:
      tensors: with Hugging Face's names, shapes and layouts.
      config: the model that they belong to.
      where: what messages call the checkpoint.
      dtype, mesh, quantize, progress: as `models.checkpoint.load_params`.
    """
    resolved, weights = resolve_dtype(dtype), weights_of(config)
    targets = abstract_params(config, resolved, mesh, quantize)
    ignorable = ("rotary_emb.inv_freq", *(("lm_head.weight",) if config.tie_embeddings else ()))
    tensors.check({w.name: w.hf_shape for w in weights}, ignorable, where)
    if config.tie_embeddings and "lm_head.weight" in tensors.headers:
        _check_tied(tensors, where)
    total = sum(tensors.headers[w.name].nbytes for w in weights)
    flat: dict[tuple[str, ...], jax.Array] = {}
    done = 0
    for weight in weights:
        array = _read_array(tensors, weight, weight.placed(mesh, resolved)).block_until_ready()
        *parents, name = weight.path
        module = lookup(targets, tuple(parents))
        kept = {name: array} if name == "bias" else format_of(module).keep(array, module, weight.outputs)
        flat |= {(*parents, part): value for part, value in kept.items()}
        del array, kept
        done += tensors.headers[weight.name].nbytes
        if progress is not None:
            progress(done, total)
    return nested(flat.items())


def _read_array(tensors: Tensors, weight: Weight, target: jax.ShapeDtypeStruct) -> jax.Array:
    pieces: dict[str, np.ndarray] = {}  # replicas of a shard share one read

    def shard(index: Any) -> np.ndarray:
        key = str(index)
        if key not in pieces:
            shape = [len(range(*s.indices(n))) for s, n in zip(index, weight.shape, strict=True)]
            piece = tensors.read(weight.name, weight.hf_index(index)).reshape(shape)
            pieces[key] = piece.astype(target.dtype, copy=False)
        return pieces[key]

    return jax.make_array_from_callback(weight.shape, target.sharding, shard)


def _check_tied(tensors: Tensors, where: Path) -> None:
    """A tied checkpoint may hold lm_head.weight too, but only as a copy of the embedding."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    shape = tensors.headers[names[1]].shape
    same = tensors.headers[names[0]].shape == shape
    for start in range(0, shape[0], _COMPARE_ROWS) if same else ():
        rows = (slice(start, min(start + _COMPARE_ROWS, shape[0])), slice(0, shape[1]))
        same = same and np.array_equal(tensors.read(names[0], rows), tensors.read(names[1], rows))
    if not same:
        raise ValueError(
            f"{where}: {names[0]} differs from {names[1]}, but config.json says tie_word_embeddings; set it to false"
        )
