"""How matrices, and keys and values that have been read, are kept: in the model's dtype or in fewer bits.

A format is a module of this package (base.py says what it offers) and a line of WEIGHTS, of KV or of both. Their keys
are the values of the settings `weights` and `kv`; "" is the model's dtype. Importing this package does not start JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.formats.base import KVFormat, WeightFormat

WEIGHTS = {"": "plain", "int8": "int8", "int4": "int4"}  # name -> the module whose WEIGHTS is the format
KV = {"": "plain", "int8": "int8", "int4": "int4_kv", "planes": "planes"}  # name -> the module whose KV is the format
LAYOUTS = {"transposed": "transposed"}  # as WEIGHTS, of the model's dtype in another order; no setting of an engine
KV_FIELDS = ("k", "v", "k_scale", "v_scale", "k_rest", "v_rest")  # of a ContextCache; see there
PLANE = 16  # steps of a lower plane in one of the upper plane


def choices(known: Mapping[str, str]) -> str:
    """The names of WEIGHTS or KV for a message, "" left out, such as "int8"."""
    return " or ".join(name for name in known if name)


def weight_format(name: str) -> WeightFormat:
    """The format of matrices with this name.

    Raises:
      ValueError: an unknown name.
    """
    return _module("weights", name, WEIGHTS | LAYOUTS).WEIGHTS


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
    others = (weight_format(name) for name in (WEIGHTS | LAYOUTS) if name)
    return next((one for one in others if one.holds(module)), weight_format(""))
