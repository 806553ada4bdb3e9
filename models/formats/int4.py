"""int4 weights: symmetric, rounded to the nearest of 15 steps, a float32 scale for each output and group of inputs.

A group's scale is not constant over the axis that a product sums. With few rows the groups are therefore summed one by
one, scaled and added up: on TPUs this reads int4 alone and needs no temporary memory, where a weight that is restored
first would be written out in bfloat16. With many rows (a prefill) restoring it once is cheaper than the partial sums.
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

GROUP = 128  # inputs that share a scale, at most
LEAST_GROUPS = 16  # of an axis that is contracted alone, so that it can be split over devices
FEW_ROWS = 64  # rows of a product up to which partial sums are taken
_STEPS = 7  # on each side of zero
_UNIFORM_STD = math.sqrt(56 / 3)  # of whole numbers drawn evenly from -7..7


def group_size(matrix: Matrix) -> int:
    """Inputs that share a scale: the largest power of two that divides the last input axis and leaves enough groups.

    It is 1 where that axis is odd: the scales then take more memory than the weights.
    """
    size = matrix.in_shape[-1]
    group = math.gcd(size, GROUP)
    while len(matrix.in_shape) == 1 and group > 1 and size // group < LEAST_GROUPS:
        group //= 2
    return group


class Int4Weights:
    """A matrix is "weight" int4 [in..., G, g, out...] and "scale" float32 [in..., G, out...], G groups of g inputs.

    The last input axis is the one that is cut into groups. The axes of a device mesh split whole groups.
    """

    name = "int4"

    def check(self, dtype: np.dtype) -> None:
        """Raises ValueError for float16, whose range a product of unscaled weights can leave."""
        if np.dtype(dtype) == np.float16:
            raise ValueError(
                "int4 weights need dtype bfloat16 or float32: float16 overflows before the scale is applied"
            )

    def arrays(self, matrix: Matrix, dtype: Any) -> dict[str, Array]:
        group = group_size(matrix)
        *before, last = matrix.in_shape
        groups, group_axes = (*before, last // group), matrix.in_axes
        scale = nn.initializers.constant(matrix.std / _UNIFORM_STD)
        return {
            "weight": Array(
                (*group_axes, None, *matrix.out_axes), (*groups, group, *matrix.out_shape), jnp.int4, _uniform
            ),
            "scale": Array((*group_axes, *matrix.out_axes), (*groups, *matrix.out_shape), jnp.float32, scale),
        }

    def holds(self, module: Mapping[str, Any]) -> bool:
        return "scale" in module and module["weight"].dtype == jnp.int4

    def product(self, x: jax.Array, arrays: Mapping[str, jax.Array], matrix: Matrix, dtype: Any) -> jax.Array:
        rows = x.shape[: x.ndim - len(matrix.in_shape)]
        group, outputs = group_size(matrix), math.prod(matrix.out_shape)
        groups = math.prod(matrix.in_shape) // group
        weight = arrays["weight"].reshape(groups, group, outputs).astype(x.dtype)
        scale = arrays["scale"].reshape(groups, outputs)
        if math.prod(rows) <= FEW_ROWS:
            split = x.reshape(-1, groups, group)
            sums = jnp.einsum("rgk,gko->gro", split, weight, preferred_element_type=jnp.float32)
            y = jnp.sum(sums * scale[:, None], axis=0)
        else:
            restored = (weight * scale[:, None].astype(x.dtype)).reshape(-1, outputs)
            y = jnp.dot(x.reshape(*rows, -1), restored, preferred_element_type=jnp.float32)
        return y.astype(dtype).reshape(*rows, *matrix.out_shape)

    def keep(self, x: jax.Array, targets: Mapping[str, jax.ShapeDtypeStruct], outputs: int) -> dict[str, jax.Array]:
        weight, scale = targets["weight"], targets["scale"]
        quantize = _quantizer(weight.shape, weight.sharding, scale.sharding)
        rounded, steps = jax.block_until_ready(quantize(x))
        x.delete()
        return {"weight": rounded, "scale": steps}

    def bytes_per_weight(self, itemsize: int) -> float:
        return 0.5 + 4 / GROUP


def to_int4(x: jax.Array, inputs: int, group: int) -> tuple[jax.Array, jax.Array]:
    """Rounds a matrix.

    Args:
      x: float [out..., in...].
      inputs: how many of its axes are inputs.
      group: g, of the last one.

    Returns:
      (int4 [in..., G, g, out...], float32 scale [in..., G, out...]): x is about int4 * scale, wrong by at most
      scale / 2.
    """
    outputs = x.ndim - inputs
    grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, group)
    turned = jnp.moveaxis(grouped, range(outputs), range(inputs + 1, grouped.ndim))
    scale = jnp.max(jnp.abs(turned), axis=inputs, keepdims=True) / _STEPS
    steps = turned / jnp.where(scale > 0, scale, 1)  # what is 0 everywhere stays 0
    return jnp.round(steps).astype(jnp.int4), jnp.squeeze(scale, inputs)


@functools.cache
def _quantizer(shape: tuple[int, ...], weight: jax.sharding.Sharding, scale: jax.sharding.Sharding) -> Callable:
    def quantize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = next(n for n in range(1, x.ndim) if _turned(x.shape, n, shape[n]) == shape)
        return to_int4(x, inputs, shape[inputs])

    return jax.jit(quantize, out_shardings=(weight, scale))


def _turned(shape: tuple[int, ...], inputs: int, group: int) -> tuple[int, ...]:
    """[out..., in...] -> [in..., G, g, out...]."""
    *before, last = shape[-inputs:]
    return (*before, last // group, group, *shape[:-inputs])


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.randint(key, shape, -_STEPS, _STEPS + 1, jnp.int8).astype(dtype)


WEIGHTS = Int4Weights()
