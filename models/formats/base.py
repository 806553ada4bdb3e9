"""What a format of weights and a format of keys and values offer; plain.py and int8.py are the examples."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]
_CPU_ROWS = 4  # 2 to 8 rows of bfloat16 take the same time


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A weight [out..., in...] that products contract over its last axes.

    Attributes:
      out_shape, in_shape: sizes of the axes that are written and contracted.
      out_axes, in_axes: their logical names (models.sharding).
      std: standard deviation of random values.
    """

    out_shape: tuple[int, ...]
    out_axes: tuple[str, ...]
    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    std: float

    @property
    def shape(self) -> tuple[int, ...]:
        """[out..., in...]."""
        return self.out_shape + self.in_shape

    @property
    def axes(self) -> tuple[str, ...]:
        """The logical names of all axes."""
        return self.out_axes + self.in_axes


@dataclasses.dataclass(frozen=True)
class Array:
    """One array that a matrix is kept as: the logical names of its axes, its shape, dtype and random values."""

    axes: tuple[str | None, ...]
    shape: tuple[int, ...]
    dtype: Any
    init: Initializer


class WeightFormat(Protocol):
    """How the matrices of a decoder are kept; its embedding, norms and biases stay in the model's dtype."""

    name: str

    def check(self, dtype: np.dtype) -> None:
        """Raises ValueError where the format does not go with a model of this dtype."""

    def arrays(self, matrix: Matrix, dtype: Any) -> dict[str, Array]:
        """The arrays of a matrix of a model of `dtype`, by their names in its module."""
        ...

    def holds(self, module: Mapping[str, Any]) -> bool:
        """Whether the arrays of a module, or their shapes and dtypes, are a matrix in this format."""
        ...

    def product(self, x: jax.Array, arrays: Mapping[str, jax.Array], matrix: Matrix, dtype: Any) -> jax.Array:
        """X [..., in...] times the matrix -> [..., out...] in `dtype`, which is x's or float32."""
        ...

    def keep(self, x: jax.Array, targets: Mapping[str, jax.ShapeDtypeStruct], outputs: int) -> dict[str, jax.Array]:
        """A matrix of floats on its devices -> its arrays with the targets' shardings; frees x unless it is kept.

        The first `outputs` axes of x are those that products write.
        """
        ...

    def bytes_per_weight(self, itemsize: int) -> float:
        """Bytes of a weight of a model whose dtype has `itemsize` bytes; what grows with one axis alone is left out."""
        ...


class KVFormat(Protocol):
    """How keys and values are kept once all of a document has been read.

    Attributes:
      name: of the setting `kv`.
      stored: dtype of the arrays, by which attention knows that they are narrow; None is the model's.
      quantize_layer: a layer's keys and values [Bc,K,S,H] -> the fields of a ContextCache that the format has, one
        layer of each by its name. A pure function, which is compiled as it is.
    """

    name: str
    stored: Any
    quantize_layer: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]

    def key_basis(self, head_dim: int) -> np.ndarray | None:
        """The orthonormal basis [H,H] in which keys are kept, k @ basis; None is the one that they have."""
        ...

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        """Bytes of one head's key of one token, its scale included, where the model's dtype has `itemsize` bytes."""
        ...


def item_bytes(dtype: Any) -> float:
    """Bytes of a number in an accelerator's memory, where int4 is packed; on a CPU it takes a byte."""
    return 0.5 if dtype == jnp.int4 else np.dtype(dtype).itemsize


def dot(x: jax.Array, weight: jax.Array, matrix: Matrix, dtype: Any) -> jax.Array:
    """X [..., in...] times a weight [out..., in...] of any dtype -> [..., out...] in `dtype`, x's or float32."""
    rows = x.shape[: x.ndim - len(matrix.in_shape)]
    # Contracted over the last axis of a matrix, the weight is read as it lies; otherwise XLA copies it every time.
    flat = weight.reshape(math.prod(matrix.out_shape), -1).astype(x.dtype)
    product = functools.partial(_product, dtype=dtype)
    x = x.reshape(*rows, flat.shape[1])
    if x.dtype == jnp.bfloat16:
        y = jax.lax.platform_dependent(x, flat, cpu=functools.partial(_cpu_bfloat16, dtype=dtype), default=product)
    else:
        y = product(x, flat)
    return y.reshape(*rows, *matrix.out_shape)


def _product(x: jax.Array, weight: jax.Array, dtype: Any) -> jax.Array:
    """X [...,in] times a weight [out,in] of the same dtype -> [...,out] in `dtype`."""
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)


def _cpu_bfloat16(x: jax.Array, weight: jax.Array, dtype: Any) -> jax.Array:
    """`_product` of bfloat16 in the form that XLA:CPU computes without widening the weight: rows in, float32 out."""
    flat = x.reshape(-1, x.shape[-1])
    padded = jnp.pad(flat, ((0, max(0, _CPU_ROWS - len(flat))), (0, 0)))
    return _product(padded, weight, jnp.float32)[: len(flat)].astype(dtype).reshape(*x.shape[:-1], len(weight))
