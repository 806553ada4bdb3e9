"""The decoder's building blocks; each weight is declared once: shape, logical axes, initialisation.

`weights` names the format of the matrices (models.formats), which declares their arrays and computes their products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.formats import weight_format
from models.formats.base import Array, Matrix


def weight(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> jax.Array:
    """Declares a weight of `module`, once for its shape, logical axes, initialisation and dtype."""
    return cast(Any, module.param(name, nn.with_logical_partitioning(init, axes), shape, dtype))


def declare(module: nn.Module, arrays: Mapping[str, Array]) -> dict[str, jax.Array]:
    """Declares the arrays of a matrix of `module`, as its format names them."""
    return {name: weight(module, name, a.init, a.axes, a.shape, a.dtype) for name, a in arrays.items()}


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (arXiv 1910.07467, Eq. 4)."""

    size: int
    eps: float
    axis: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = weight(self, "weight", nn.initializers.ones, (self.axis,), (self.size,), self.dtype)
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return x32.astype(self.dtype) * jnp.reshape(scale, (1,) * (x.ndim - 1) + (self.size,))


class Projection(nn.Module):
    """Linear map from the last axes of x to new axes; the weight is [out, in], as in checkpoints, or transposed.

    Attributes:
      out_shape, in_shape: sizes of the axes written and contracted.
      out_axes, in_axes: their logical names for sharding.
      weights: name of the weight's format.
    """

    out_shape: tuple[int, ...]
    out_axes: tuple[str, ...]
    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    use_bias: bool
    dtype: jnp.dtype
    weights: str = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        form = weight_format(self.weights)
        matrix = Matrix(self.out_shape, self.out_axes, self.in_shape, self.in_axes, std=0.02)
        y = form.product(x, declare(self, form.arrays(matrix, self.dtype)), matrix, x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, self.out_axes, self.out_shape, self.dtype)
            y = y + jnp.reshape(bias, (1,) * (y.ndim - bias.ndim) + self.out_shape)
        return y


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) on [B,T,D] (SwiGLU, arXiv 2002.05202)."""

    config: ModelConfig
    dtype: jnp.dtype
    weights: str = ""

    def setup(self) -> None:
        c = self.config
        kind = (c.mlp_bias, self.dtype, self.weights)
        into = ((c.ffn_width,), ("ffn",), (c.width,), ("embed",), *kind)
        self.gate_proj = Projection(*into)
        self.up_proj = Projection(*into)
        self.down_proj = Projection((c.width,), ("embed",), (c.ffn_width,), ("ffn",), *kind)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Embedding(nn.Module):
    """Token embedding [V,D] in the model's dtype, `logits` is the tied output projection.

    The parameters decide whether it is transposed, [D,V].
    """

    vocab_size: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.form = weight_format("transposed" if self.has_variable("params", "kernel") else "")
        self.matrix = _vocabulary(self.vocab_size, self.width)
        self.arrays = declare(self, self.form.arrays(self.matrix, self.dtype))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32 [B,T] -> [B,T,D]."""
        if "kernel" in self.arrays:
            return jnp.moveaxis(jnp.take(self.arrays["kernel"], tokens, axis=1), 0, -1)
        return jnp.take(self.arrays["weight"], tokens, axis=0)

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.form.product(x, self.arrays, self.matrix, jnp.float32)


class OutputHead(nn.Module):
    """Output projection [V,D] of a model that does not tie it to its embedding."""

    vocab_size: int
    width: int
    dtype: jnp.dtype
    weights: str = ""

    def setup(self) -> None:
        self.matrix = _vocabulary(self.vocab_size, self.width)
        self.arrays = declare(self, weight_format(self.weights).arrays(self.matrix, self.dtype))

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return weight_format(self.weights).product(x, self.arrays, self.matrix, jnp.float32)


def _vocabulary(vocab_size: int, width: int) -> Matrix:
    """The matrix [V,D] of an embedding and of an output projection."""
    return Matrix((vocab_size,), ("vocab",), (width,), ("embed",), std=1 / math.sqrt(width))
