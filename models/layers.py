"""The decoder's building blocks; each weight is declared once: shape, logical axes, initialisation."""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig

_INIT = nn.initializers.normal(0.02)


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
    """

    out_shape: tuple[int, ...]
    out_axes: tuple[str, ...]
    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes, shape = self.out_axes + self.in_axes, self.out_shape + self.in_shape
        kernel = weight(self, "weight", _INIT, axes, shape, self.dtype)
        rows = x.shape[: x.ndim - len(self.in_shape)]
        # Contracted over the last axis of a matrix, the weight is read as it lies; otherwise XLA copies it every time.
        matrix = kernel.reshape(math.prod(self.out_shape), -1)
        y = jax.lax.dot_general(x.reshape(*rows, -1), matrix, (((len(rows),), (1,)), ((), ())))
        y = y.reshape(*rows, *self.out_shape)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, self.out_axes, self.out_shape, self.dtype)
            y = y + jnp.reshape(bias, (1,) * len(rows) + self.out_shape)
        return y


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) on [B,T,D] (SwiGLU, arXiv 2002.05202)."""

    config: ModelConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        c = self.config
        into = ((c.ffn_width,), ("ffn",), (c.width,), ("embed",), c.mlp_bias, self.dtype)
        self.gate_proj = Projection(*into)
        self.up_proj = Projection(*into)
        self.down_proj = Projection((c.width,), ("embed",), (c.ffn_width,), ("ffn",), c.mlp_bias, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Embedding(nn.Module):
    """Token embedding [V,D]; `attend` is the tied output projection."""

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
        contract = (((x.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(x, self.weight, contract, preferred_element_type=jnp.float32)
