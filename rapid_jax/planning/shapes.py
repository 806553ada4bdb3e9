"""A model on a mesh, what is decoded with it, and the shapes and shardings of its caches."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from models.attention import api
from models.cache import ContextCache, TailCache, empty_context, empty_tail, with_layers
from models.config import ModelConfig
from models.decoder import Decoder
from models.formats import kv_format
from models.params import abstract_params
from models.sharding import context_specs, rows_axis, tail_spec
from rapid_jax.decoding.buckets import context_bucket, token_bucket
from rapid_jax.retrieval import num_chunks

QUESTION = 64  # tokens of a question, assumed
CHUNK_TOKENS = 512  # of a retrieved passage (RAPID, arXiv 2502.20330, section 4.1)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is decoded.

    Attributes:
      context: tokens of the document.
      batch: rows; all ask about the one document.
      gamma: tokens drafted in a step.
      chunk: tokens of a prefill chunk.
      new_tokens: tokens of an answer, at most.
      passages: tokens that the drafter reads; None is what is retrieved for its length.
      pages: the same of a drafter that reads pages of the target's own cache.
      tokens_per_step: of a forward that verifies candidates from a text, the next one included, assumed.
    """

    context: int
    batch: int = 1
    gamma: int = 10
    chunk: int = 2048
    new_tokens: int = 1024
    passages: int | None = None
    pages: int = 4096
    tokens_per_step: float = 2.5

    @property
    def retrieved(self) -> int:
        """Tokens of the passages, at most the document."""
        if self.passages is not None:
            return min(self.passages, self.context)
        return min(num_chunks(self.context, CHUNK_TOKENS) * CHUNK_TOKENS, self.context)

    @property
    def tail(self) -> int:
        """Slots for the question and the answer."""
        return token_bucket(QUESTION + self.new_tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A model on a mesh.

    Attributes:
      config: the model.
      mesh: (data, context, model) devices, real ones or those of a topology; None for the first device at hand.
      dtype: of weights and caches.
      backend: attention backend; None picks.
      weights: format of the target's matrices (models.formats).
      drafter_weights: the same of the drafter, which is a copy of the target then; "" is the target itself.
      kv: format of what has been read.
    """

    config: ModelConfig
    mesh: Mesh | None
    dtype: Any = jnp.bfloat16
    backend: str | None = None
    weights: str = ""
    drafter_weights: str = ""
    kv: str = ""

    @property
    def upper(self) -> Plan:
        """The drafter, over the upper plane of keys and values."""
        return dataclasses.replace(self.drafter, kv="int4")

    @property
    def decoder(self) -> Decoder:
        """The module."""
        return Decoder(self.config, jnp.dtype(self.dtype), self.mesh, self.backend, self.weights)

    @functools.cached_property
    def params(self) -> Any:
        """Shapes and shardings of the weights."""
        return abstract_params(self.config, np.dtype(self.dtype), self.mesh, self.weights)

    @functools.cached_property
    def drafter(self) -> Plan:
        """The target itself, or its copy in other weights."""
        if self.drafter_weights in ("", self.weights):
            return self
        return dataclasses.replace(self, weights=self.drafter_weights, drafter_weights="")


def tpu_backend() -> str:
    """The attention backend that runs on a TPU."""
    return "tpu" if "tpu" in api.BACKENDS else "xla"


def context_shape(plan: Plan, tokens: int, chunk: int, rows: int = 1, *, read: bool = True) -> ContextCache:
    """Shapes and shardings of a context cache for documents of so many tokens, one a row.

    Args:
      plan: whose.
      tokens, chunk, rows: see there.
      read: once everything has been read, in the plan's format of keys and values; otherwise while prefill goes on.
    """
    capacity, mesh = context_bucket(tokens, chunk), plan.mesh
    shapes = jax.eval_shape(lambda: empty_context(plan.config, rows, capacity, plan.dtype, mesh))
    if plan.kv and read:
        narrow = functools.partial(jax.eval_shape, kv_format(plan.kv).quantize_layer)
        shapes = with_layers(shapes, [narrow(k, v) for k, v in zip(shapes.k, shapes.v, strict=True)])
    return placed(plan, shapes, context_specs(rows))


def tail_shape(plan: Plan, workload: Workload, slots: int | None = None) -> TailCache:
    """Shapes and shardings of a tail for the rows of a workload, of as many slots as it needs where none are given."""
    rows, capacity = workload.batch, workload.tail if slots is None else slots
    shapes = jax.eval_shape(lambda: empty_tail(plan.config, rows, capacity, plan.dtype, plan.mesh))
    return placed(plan, shapes, {4: tail_spec(rows), 1: P(rows_axis(rows))})


def placed(plan: Plan, shapes: Any, specs: dict[int, P]) -> Any:
    """Shapes with the sharding that their number of dimensions names."""

    def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(plan, specs[x.ndim]))

    return jax.tree.map(one, shapes)


def array(plan: Plan, shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """The shape of an array that is on every chip."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=_sharding(plan, P()))


def _sharding(plan: Plan, spec: P) -> jax.sharding.Sharding:
    return SingleDeviceSharding(jax.devices()[0]) if plan.mesh is None else NamedSharding(plan.mesh, spec)
