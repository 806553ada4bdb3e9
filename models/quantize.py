"""int8 weights and int8 keys and values: symmetric, rounded to the nearest of 255 steps, with float32 scales.

A weight [out, in] has a scale for each output channel, keys and values one for each head and token: both are constant
over the axis that the matrix product sums, so that products read int8 alone and are scaled afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.cache import ContextCache

INT8 = "int8"
KINDS = ("", INT8)  # "" keeps the model's dtype
_STEPS = 127  # on each side of zero


def check_weights(kind: str, dtype: jnp.dtype) -> None:
    """Checks how weights are to be kept.

    Raises:
      ValueError: not one of KINDS, or int8 with a dtype whose range a product of unscaled weights can leave.
    """
    if kind not in KINDS:
        raise ValueError(f"weights {kind!r} is not supported; known: '', int8")
    if kind and jnp.dtype(dtype) == jnp.float16:
        raise ValueError("int8 weights need dtype bfloat16 or float32: float16 overflows before the scale is applied")


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


def quantize_weight(
    x: jax.Array, weight: jax.ShapeDtypeStruct, scale: jax.ShapeDtypeStruct
) -> tuple[jax.Array, jax.Array]:
    """One weight where it lies, on any mesh; its float array is freed.

    Args:
      x: float [out..., in...].
      weight, scale: what it becomes, int8 of x's shape and float32 [out...], with their shardings.
    """
    quantize = _weight_quantizer(len(scale.shape), weight.sharding, scale.sharding)
    result = jax.block_until_ready(quantize(x))
    x.delete()
    return result


def quantize_context_layer(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A layer's keys and values [Bc,K,S,H] -> (int8 k, int8 v, float32 k_scale [Bc,K,S], v_scale)."""
    (k, k_scale), (v, v_scale) = to_int8(k, 3), to_int8(v, 3)
    return k, v, k_scale, v_scale


def quantize_context(context: ContextCache, layer: Callable = quantize_context_layer) -> ContextCache:
    """A frozen context in int8, layer by layer; each layer's float arrays are freed before the next is made.

    The peak is thus the float context and one int8 layer, which prefill had room for: later chunks of a document are
    read over exact keys and values, and nothing is rounded twice.

    Args:
      context: float keys and values; its arrays are deleted.
      layer: `quantize_context_layer`, compiled.
    """
    layers = []
    for k, v in zip(context.k, context.v, strict=True):
        layers.append(jax.block_until_ready(layer(k, v)))
        k.delete()
        v.delete()
    keys, values, k_scales, v_scales = map(tuple, zip(*layers, strict=True))
    return ContextCache(keys, values, context.length, context.filled, k_scales, v_scales)
