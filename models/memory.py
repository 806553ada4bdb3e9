"""Bytes of keys and values, and what is free on the devices, where their platform says it."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from models.config import ModelConfig
from models.formats import kv_format


class TooLittleMemory(ValueError):
    """What was asked for cannot fit; found before anything is written."""


def kv_bytes_per_token(config: ModelConfig, dtype: np.dtype, kv: str = "") -> int:
    """Bytes of one token's keys and values in all layers.

    Args:
      config: of the model.
      dtype: of the model.
      kv: the format that they are kept in (models.formats), its scales included; "" is the model's dtype.
    """
    one_head = kv_format(kv).bytes_per_head(config.head_dim, np.dtype(dtype).itemsize)
    return round(2 * config.num_layers * config.num_kv_heads * one_head)


def free_bytes(mesh: Mesh | None = None) -> int | None:
    """Bytes that are free on that device of this host that has the fewest; None where the platform does not say (CPU).

    Args:
      mesh: its devices count; None takes the default device.
    """
    devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
    stats = [device.memory_stats() or {} for device in devices]
    known = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if {"bytes_limit", "bytes_in_use"} <= s.keys()]
    return max(min(known), 0) if known else None
