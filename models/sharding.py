"""Mesh axes, and the rules from logical axes of weights and caches to them.

Axes: `data` splits the rows of a batch, `context` the slots of the context cache, `model` the heads, the ffn and the
vocabulary. Every weight is split over `context` x `model` together, so that a decoding step reads each byte once
(two-dimensional and weight-stationary: Pope et al., arXiv 2211.05102, section 3.2).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.config import ModelConfig

AXES = ("data", "context", "model")
# By default each device of a CPU may start collectives that do not depend on one another in an order of its own.
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
MIN_CHUNK = 32  # tokens of the shortest prefill chunk; all are powers of two

RULES: dict[str, str | None] = {
    "vocab": "model",
    "embed": "context",
    "heads": "model",
    "kv_heads": "model",
    "head_dim": None,
    "ffn": "model",
}


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of (data, context, model) devices.

    Raises:
      ValueError: the shape is not three positive numbers, there are fewer devices than it needs, or it would leave one
        of several hosts without any.
    """
    shape = tuple(shape)
    if len(shape) != 3 or any(not isinstance(n, (int, np.integer)) or n < 1 for n in shape):
        raise ValueError(f"mesh must be three positive numbers (data, context, model), got {shape}")
    devices = list(jax.devices() if devices is None else devices)
    needed = math.prod(shape)
    if needed > len(devices):
        raise ValueError(f"mesh {shape} needs {needed} devices, there are {len(devices)}")
    hosts.check_devices(shape, devices[:needed])
    _warn_of_waiting(devices[:needed])
    types = (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:needed])
    except NotImplementedError:  # no axis of the TPU slice has one of these lengths: on 4x4 chips (1, 8, 2) splits one
        split = mesh_utils.create_device_mesh(shape, devices[:needed], allow_split_physical_axes=True)
        return Mesh(split, AXES, axis_types=types)


def _warn_of_waiting(devices: Sequence[jax.Device]) -> None:
    """Says which flag several devices of a CPU need; XLA takes it from the environment alone, before JAX starts."""
    if len(devices) > 1 and devices[0].platform == "cpu" and IN_ORDER not in os.environ.get("XLA_FLAGS", ""):
        logging.warning(
            "several devices of a CPU may wait for one another for ever: add %s to XLA_FLAGS before the start", IN_ORDER
        )


def mesh_of(shape: Sequence[int]) -> Mesh | None:
    """As `make_mesh`; None for a single device, where nothing is split.

    Raises:
      ValueError: see `make_mesh`.
    """
    return None if tuple(shape) == (1, 1, 1) and hosts.count() == 1 else make_mesh(shape)


def spec(axes: Sequence[str | None], rules: Mapping[str, str | None] = RULES) -> P:
    """The PartitionSpec of an array whose dimensions carry these logical names.

    Raises:
      ValueError: a name without a rule, or two dimensions that claim one mesh axis.
    """
    for name in axes:
        if name is not None and name not in rules:
            raise ValueError(f"logical axis {name!r} has no sharding rule; known: {', '.join(sorted(rules))}")
    claimed = [rules[name] if name is not None else None for name in axes]
    used = [axis for axis in claimed if axis is not None]
    if len(set(used)) != len(used):
        raise ValueError(f"logical axes {tuple(axes)} claim a mesh axis twice: {tuple(claimed)}")
    return P(*claimed)


def shardings(boxed: dict, mesh: Mesh, rules: Mapping[str, str | None] = RULES) -> dict:
    """NamedShardings for a tree of logically partitioned weights (as Decoder.init under jax.eval_shape gives)."""

    def one(leaf: nn.LogicallyPartitioned) -> NamedSharding:
        return NamedSharding(mesh, spec(leaf.names, rules))

    return jax.tree.map(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def check_divides(config: ModelConfig, mesh: Mesh) -> None:
    """Checks that a model can be split over a mesh.

    Raises:
      ValueError: an axis that does not divide, with the sizes that would.
    """
    sizes = dict(mesh.shape)
    for axis, name, count in (
        ("model", "key-value heads", config.num_kv_heads),
        ("model", "query heads", config.num_heads),
        ("model", "ffn width", config.ffn_width),
        ("model", "vocabulary", config.vocab_size),
        ("context", "width", config.width),
    ):
        if count % sizes[axis]:
            raise ValueError(f"mesh axis {axis}={sizes[axis]} does not divide the model's {count} {name}")
    if MIN_CHUNK % sizes["context"]:
        raise ValueError(
            f"mesh axis context={sizes['context']} must be a power of two of at most {MIN_CHUNK}, "
            "so that it divides every chunk of a prefill"
        )


def context_spec(batch: int) -> P:
    """How a context's keys and values [Bc,K,S,H] are split: rows over data, heads over model, slots over context.

    A context that all rows share (batch 1) is on every device of the data axis.
    """
    return P(rows_axis(batch), "model", "context", None)


def context_specs(batch: int) -> dict[int, P]:
    """Of a context's arrays by their dimensions: keys and values, scales, slots in use, lengths."""
    kv = context_spec(batch)
    return {4: kv, 3: P(*kv[:3]), 2: P(kv[0], kv[2]), 1: P(kv[0])}


def tail_spec(batch: int) -> P:
    """How the keys and values [B,K,T,H] of a tail or a block are split: as a context, but whole along the slots."""
    return P(rows_axis(batch), "model", None, None)


def rows_axis(batch: int) -> str | None:
    """The mesh axis of `batch` rows; a single row is on all of `data`."""
    return "data" if batch > 1 else None
