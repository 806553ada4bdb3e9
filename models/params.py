"""The tree of a decoder's weights: its shapes and shardings without memory, and random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import Mesh, SingleDeviceSharding

from models import sharding
from models.config import ModelConfig
from models.decoder import Decoder
from models.formats import weight_format

Params = dict[str, Any]
DTYPES = ("float32", "bfloat16", "float16")


def resolve_dtype(dtype: jnp.dtype | str | None) -> np.dtype:
    """The dtype of weights; None is bfloat16 on TPU and GPU, float32 on CPU.

    Raises:
      ValueError: not one of DTYPES.
    """
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        resolved = None
    if resolved is None or resolved.name not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not supported; known: {', '.join(DTYPES)}")
    return resolved


def _init(config: ModelConfig, dtype: np.dtype, seed: int, weights: str) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    decoder = Decoder(config, dtype, weights=weights)
    return decoder.init(jax.random.key(seed), tokens, tokens, method="forward_logits")["params"]


def logical_params(config: ModelConfig, dtype: np.dtype, weights: str = "") -> Params:
    """Shapes of all weights, boxed with the logical names of their axes; uses no memory.

    One layer is traced: all have the same weights, and 80 layers would take seconds.
    """
    traced = jax.eval_shape(lambda: _init(dataclasses.replace(config, num_layers=1), dtype, 0, weights))
    layer = traced.pop("layers_0")
    return {**traced, **{f"layers_{index}": layer for index in range(config.num_layers)}}


def abstract_params(config: ModelConfig, dtype: np.dtype, mesh: Mesh | None = None, weights: str = "") -> Params:
    """jax.ShapeDtypeStruct of all weights, each with the sharding that it has on the mesh (or on the first device).

    Args:
      config, mesh: the model and its devices.
      dtype: of the model.
      weights: format of its matrices (models.formats).

    Raises:
      ValueError: the mesh does not divide the model, or an unknown format, or one that does not go with the dtype.
    """
    weight_format(weights).check(dtype)
    boxed = logical_params(config, dtype, weights)
    if mesh is None:
        shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), meta.unbox(boxed))
    else:
        sharding.check_divides(config, mesh)
        shardings = sharding.shardings(boxed, mesh)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), meta.unbox(boxed), shardings)
    for keys, leaf in jax.tree.leaves_with_path(placed) if weights else ():
        try:
            leaf.sharding.shard_shape(leaf.shape)
        except ValueError:  # a model that a mesh divides may have groups that it does not
            name = ".".join(key.key for key in keys)
            raise ValueError(
                f"{name} of {weights} weights is {list(leaf.shape)}: mesh {dict(leaf.sharding.mesh.shape)} does not "
                "divide it; take fewer devices along its axis, or weights in another format"
            ) from None
    return placed


def init_params(
    config: ModelConfig,
    *,
    seed: int = 0,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
    weights: str = "",
) -> Params:
    """Random weights, made where they will live.

    Args:
      config: the model.
      seed: of the random numbers; the same weights on any mesh.
      dtype: of the weights; None is bfloat16 on TPU and GPU, float32 on CPU.
      mesh: the devices to split them over; None for one device.
      weights: format of the matrices. Those of a narrow format are drawn in it: they are not those of "" quantised.
    """
    resolved = resolve_dtype(dtype)
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params(config, resolved, mesh, weights))
    return jax.jit(lambda: meta.unbox(_init(config, resolved, seed, weights)), out_shardings=shardings)()
