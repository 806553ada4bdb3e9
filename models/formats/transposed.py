"""Matrices in the model's own dtype, stored [in, out]: products of a few rows are faster so on a CPU.

XLA:CPU computes a product of several rows in YNNPACK, which copies a weight [out, in] into another order every time and
takes a weight [in, out] as it lies. A single row takes a few percent longer so. An accelerator reads both alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.formats.base import Array, Matrix


class TransposedWeights:
    """A matrix is one array "kernel" [in..., out...]."""

    name = "transposed"

    def check(self, dtype: np.dtype) -> None:
        """Goes with every dtype."""

    def arrays(self, matrix: Matrix, dtype: Any) -> dict[str, Array]:
        axes, shape = matrix.in_axes + matrix.out_axes, matrix.in_shape + matrix.out_shape
        return {"kernel": Array(axes, shape, dtype, nn.initializers.normal(matrix.std))}

    def holds(self, module: Mapping[str, Any]) -> bool:
        return "kernel" in module

    def product(self, x: jax.Array, arrays: Mapping[str, jax.Array], matrix: Matrix, dtype: Any) -> jax.Array:
        rows = x.shape[: x.ndim - len(matrix.in_shape)]
        flat = arrays["kernel"].reshape(math.prod(matrix.in_shape), -1).astype(x.dtype)
        contracted = (((len(rows),), (0,)), ((), ()))
        y = jax.lax.dot_general(x.reshape(*rows, len(flat)), flat, contracted, preferred_element_type=dtype)
        return y.reshape(*rows, *matrix.out_shape)

    def keep(self, x: jax.Array, targets: Mapping[str, jax.ShapeDtypeStruct], outputs: int) -> dict[str, jax.Array]:
        kernel = jax.block_until_ready(_transposer(outputs, targets["kernel"].sharding)(x))
        x.delete()
        return {"kernel": kernel}

    def bytes_per_weight(self, itemsize: int) -> float:
        return itemsize


def transposed(x: jax.Array, first: int) -> jax.Array:
    """An array whose first axes come last."""
    return jnp.transpose(x, (*range(first, x.ndim), *range(first)))


@functools.cache
def _transposer(outputs: int, sharding: jax.sharding.Sharding) -> Callable:
    return jax.jit(functools.partial(transposed, first=outputs), out_shardings=sharding)


WEIGHTS = TransposedWeights()
