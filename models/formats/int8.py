"""int8 weights and int8 keys and values: symmetric, rounded to the nearest of 255 steps, with float32 scales.

A weight [out, in] has a scale for each output channel, keys and values one for each head and token: both are constant
over the axis that the matrix product sums, so that products read int8 alone and are scaled afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.formats.base import Array, Matrix, dot

_STEPS = 127  # on each side of zero
_UNIFORM_STD = 73.6  # of whole numbers drawn evenly from -127..127


class Int8Weights:
    """A matrix is "weight" int8 [out..., in...] and "scale" float32 [out...].

    The product converts what it reads, so that memory sees int8 alone, and the scale is applied to its output. An
    embedding is never int8: XLA:TPU gathers int8 rows from another layout and would copy the whole table for it in
    every step.
    """

    name = "int8"

    def check(self, dtype: np.dtype) -> None:
        """Raises ValueError for float16, whose range a product of unscaled weights can leave."""
        if np.dtype(dtype) == np.float16:
            raise ValueError(
                "int8 weights need dtype bfloat16 or float32: float16 overflows before the scale is applied"
            )

    def arrays(self, matrix: Matrix, dtype: Any) -> dict[str, Array]:
        scale = nn.initializers.constant(matrix.std / _UNIFORM_STD)
        return {
            "weight": Array(matrix.axes, matrix.shape, jnp.int8, _uniform),
            "scale": Array(matrix.out_axes, matrix.out_shape, jnp.float32, scale),
        }

    def holds(self, module: Mapping[str, Any]) -> bool:
        return "scale" in module and module["weight"].dtype == jnp.int8

    def product(self, x: jax.Array, arrays: Mapping[str, jax.Array], matrix: Matrix, dtype: Any) -> jax.Array:
        y, scale = dot(x, arrays["weight"], matrix, dtype), arrays["scale"]
        scaled = y.astype(jnp.float32) * jnp.reshape(scale, (1,) * (y.ndim - scale.ndim) + scale.shape)
        return scaled.astype(dtype)

    def keep(self, x: jax.Array, targets: Mapping[str, jax.ShapeDtypeStruct], outputs: int) -> dict[str, jax.Array]:
        weight, scale = targets["weight"], targets["scale"]
        quantize = _weight_quantizer(outputs, weight.sharding, scale.sharding)
        rounded, steps = jax.block_until_ready(quantize(x))
        x.delete()
        return {"weight": rounded, "scale": steps}

    def bytes_per_weight(self, itemsize: int) -> float:
        return 1


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.randint(key, shape, -_STEPS, _STEPS + 1, dtype)


def to_int8(x: jax.Array, kept: int) -> tuple[jax.Array, jax.Array]:
    """Quantises with one scale for each index of the first `kept` axes.

    Args:
      x: float [..., ...].
      kept: axes that the scale has.

    Returns:
      (int8 of x's shape, float32 scale): x is about int8 * scale, wrong by at most scale / 2.
    """
    x32 = x.astype(jnp.float32)
    over = tuple(range(kept, x.ndim))
    scale = jnp.max(jnp.abs(x32), axis=over, keepdims=True) / _STEPS
    steps = x32 / jnp.where(scale > 0, scale, 1)  # what is 0 everywhere stays 0
    return jnp.round(steps).astype(jnp.int8), jnp.squeeze(scale, over)


@functools.cache
def _weight_quantizer(kept: int, weight: jax.sharding.Sharding, scale: jax.sharding.Sharding) -> Callable:
    return jax.jit(functools.partial(to_int8, kept=kept), out_shardings=(weight, scale))


class Int8KV:
    """Keys and values int8 [Bc,K,S,H] with scales float32 [Bc,K,S]."""

    name = "int8"
    stored = jnp.int8

    @staticmethod
    def quantize_layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        (k, k_scale), (v, v_scale) = to_int8(k, 3), to_int8(v, 3)
        return dict(k=k, v=v, k_scale=k_scale, v_scale=v_scale)

    def key_basis(self, head_dim: int) -> None:
        return None

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        return head_dim + 4


WEIGHTS = Int8Weights()
KV = Int8KV()
