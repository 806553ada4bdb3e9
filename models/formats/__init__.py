"""How matrices, and keys and values that have been read, are kept: in the model's dtype or in fewer bits.

A format is a module of this package (base.py says what it offers) and a line of WEIGHTS, of KV or of both. Their keys
are the values of the settings `weights` and `kv`; "" is the model's dtype. Importing this package does not start JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from models.formats.base import KVFormat, WeightFormat

WEIGHTS = {"": "plain", "int8": "int8", "int4": "int4"}  # name -> the module whose WEIGHTS is the format
KV = {"": "plain", "int8": "int8"}  # name -> the module whose KV is the format


def choices(known: Mapping[str, str]) -> str:
    """The names of WEIGHTS or KV for a message, "" left out, such as "int8"."""
    return " or ".join(name for name in known if name)


def weight_format(name: str) -> WeightFormat:
    """The format of matrices with this name.

    Raises:
      ValueError: an unknown name.
    """
    return _module("weights", name, WEIGHTS).WEIGHTS


def kv_format(name: str) -> KVFormat:
    """The format of keys and values with this name.

    Raises:
      ValueError: an unknown name.
    """
    return _module("kv", name, KV).KV


def _module(setting: str, name: str, known: Mapping[str, str]) -> Any:
    if name not in known:
        raise ValueError(f"{setting} {name!r} is not supported; known: '', {', '.join(filter(None, known))}")
    return importlib.import_module(f"models.formats.{known[name]}")


def format_of(module: Mapping[str, Any]) -> WeightFormat:
    """The format in which the weights of a module are, told from its arrays (or their shapes and dtypes)."""
    narrow = (weight_format(name) for name in WEIGHTS if name)
    return next((one for one in narrow if one.holds(module)), weight_format(""))


def widen(x: jax.Array, dtype: Any) -> jax.Array:
    """Keys or values as a cache keeps them -> the floats that a product reads, their scale left out."""
    narrow = (kv_format(name) for name in KV if name)
    return next((one.widen(x, dtype) for one in narrow if x.dtype == one.stored), x)


def restore(x: jax.Array, scale: jax.Array | None, dtype: Any) -> jax.Array:
    """Keys or values [...,H] as a cache keeps them, with their scale [...] if they have one -> floats of `dtype`."""
    if scale is None:
        return x.astype(dtype)
    return (widen(x, "float32") * scale[..., None]).astype(dtype)
