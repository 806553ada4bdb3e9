"""The decoder's building blocks; each weight is declared once: shape, logical axes, initialisation.

With `weights` "int8" matrices are declared as int8 [out, in] and a float32 scale [out] (models.quantize). The product
converts what it reads, so that memory sees int8 alone, and the scale is applied to its output.
"""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.quantize import INT8


def weight(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> jax.Array:
    """Declares a weight of `module`, once for its shape, logical axes, initialisation and dtype."""
    return cast(Any, module.param(name, nn.with_logical_partitioning(init, axes), shape, dtype))


def matrix(
    module: nn.Module,
    std: float,
    out: tuple[tuple[str, ...], tuple[int, ...]],
    into: tuple[tuple[str, ...], tuple[int, ...]],
    dtype: jnp.dtype,
    weights: str,
) -> tuple[jax.Array, jax.Array | None]:
    """Declares the matrix of `module`, in its dtype or as int8 with a scale for each output channel.

    Args:
      module: see `weight`.
      std: standard deviation of random weights.
      out, into: (logical axes, sizes) of the axes written and contracted.
      dtype: of weights that are not int8.
      weights: "" or "int8".

    Returns:
      (weight [out, in], scale float32 [out] or None).
    """
    axes, shape = out[0] + into[0], out[1] + into[1]
    if weights != INT8:
        return weight(module, "weight", nn.initializers.normal(std), axes, shape, dtype), None
    scale = nn.initializers.constant(std / _UNIFORM_STD)
    return (
        weight(module, "weight", _uniform_int8, axes, shape, jnp.int8),
        weight(module, "scale", scale, out[0], out[1], jnp.float32),
    )


_UNIFORM_STD = 73.6  # of whole numbers drawn evenly from -127..127


def _uniform_int8(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.random.randint(key, shape, -127, 128, dtype)


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
    """Linear map from the last axes of x to new axes; the weight is stored as Hugging Face stores it, [out, in].

    Attributes:
      out_shape, in_shape: sizes of the axes written and contracted.
      out_axes, in_axes: their logical names for sharding.
      weights: "" or "int8".
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
        out, into = (self.out_axes, self.out_shape), (self.in_axes, self.in_shape)
        kernel, scale = matrix(self, 0.02, out, into, self.dtype, self.weights)
        rows = x.shape[: x.ndim - len(self.in_shape)]
        # Contracted over the last axis of a matrix, the weight is read as it lies; otherwise XLA copies it every time.
        flat = kernel.reshape(math.prod(self.out_shape), -1).astype(x.dtype)
        y = jax.lax.dot_general(x.reshape(*rows, -1), flat, (((len(rows),), (1,)), ((), ())))
        y = y.reshape(*rows, *self.out_shape)
        if scale is not None:
            y = scaled(y, scale).astype(x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, self.out_axes, self.out_shape, self.dtype)
            y = y + jnp.reshape(bias, (1,) * len(rows) + self.out_shape)
        return y


def scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    """[..., out] times its channels' scale [out], float32."""
    return y.astype(jnp.float32) * jnp.reshape(scale, (1,) * (y.ndim - scale.ndim) + scale.shape)


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
    """Token embedding [V,D], `logits` is the tied output projection.

    It is never int8: XLA:TPU gathers int8 rows from another layout and would copy the whole table for it in every step.
    """

    vocab_size: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        init = nn.initializers.normal(1 / math.sqrt(self.width))
        self.weight = weight(self, "weight", init, ("vocab", "embed"), (self.vocab_size, self.width), self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32 [B,T] -> [B,T,D]."""
        return jnp.take(self.weight, tokens, axis=0)

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return _logits(x, self.weight)


class OutputHead(nn.Module):
    """Output projection [V,D] of a model that does not tie it to its embedding."""

    vocab_size: int
    width: int
    dtype: jnp.dtype
    weights: str = ""

    def setup(self) -> None:
        out, into = (("vocab",), (self.vocab_size,)), (("embed",), (self.width,))
        self.weight, self.scale = matrix(self, 1 / math.sqrt(self.width), out, into, self.dtype, self.weights)

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        y = _logits(x, self.weight)
        return y if self.scale is None else scaled(y, self.scale)


def _logits(x: jax.Array, table: jax.Array) -> jax.Array:
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, table.astype(x.dtype), contract, preferred_element_type=jnp.float32)
