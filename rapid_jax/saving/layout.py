"""How a document's tokens lie in the slots of a saved context, and how they get to where another mesh has them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache
from models.sharding import context_spec, context_specs
from models.striping import token_slots
from rapid_jax.decoding.buckets import chunk_sizes, context_bucket


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tokens of one document lie.

    Attributes:
      tokens: of the context.
      chunk: tokens of a prefill chunk.
      shards: of the mesh axis `context`.
      capacity: slots of all shards.
    """

    tokens: int
    chunk: int
    shards: int
    capacity: int

    @classmethod
    def of(cls, tokens: int, chunk: int, mesh: Mesh | None) -> Layout:
        """That of a prefill with chunks of this size on this mesh."""
        shards = 1 if mesh is None else mesh.shape["context"]
        return cls(tokens, chunk, shards, context_bucket(tokens, chunk))

    @functools.cached_property
    def slots(self) -> np.ndarray:
        """The slot of every token, int32 [tokens]."""
        return token_slots(chunk_sizes(self.tokens, self.chunk), self.shards, self.capacity)[: self.tokens]

    @property
    def filled(self) -> np.ndarray:
        """Slots in use on every shard, int32 [1,shards]."""
        share = self.capacity // self.shards
        return np.bincount(self.slots // share, minlength=self.shards).astype(np.int32)[None]

    def same_as(self, other: Layout) -> bool:
        """Whether every token has the same slot of as many."""
        return self.capacity == other.capacity and np.array_equal(self.slots, other.slots)


def moved(context: ContextCache, old: Layout, new: Layout, mesh: Mesh | None) -> ContextCache:
    """A context in another layout, layer by layer; each one's arrays are freed before the next one's are made.

    Args:
      context: of one document, with the slots of `old`, on the devices of `mesh`.
      old, new: see there.
      mesh: the new layout's.
    """
    source = np.zeros(new.capacity, np.int32)
    source[new.slots] = old.slots
    index = hosts.put(source, None if mesh is None else NamedSharding(mesh, P()))
    spec, held = context_specs(1), dict(context.held)
    for name, layers in held.items():
        sharding = None if mesh is None else NamedSharding(mesh, spec[layers[0].ndim])
        take = jax.jit(lambda x, index: jnp.take(x, index, axis=2), out_shardings=sharding)
        found = []
        for layer in layers:
            found.append(jax.block_until_ready(take(layer, index)))
            layer.delete()
        held[name] = tuple(found)
    return with_lengths(ContextCache(**held, length=context.length, filled=context.filled), new, mesh)


def with_lengths(context: ContextCache, layout: Layout, mesh: Mesh | None) -> ContextCache:
    """A context with the lengths that a layout says."""
    rows, _, slots, _ = context_spec(1)

    def put(x: np.ndarray, spec: P) -> jax.Array:
        return hosts.put(x, None if mesh is None else NamedSharding(mesh, spec))

    return dataclasses.replace(
        context,
        length=put(np.asarray([layout.tokens], np.int32), P(rows)),
        filled=put(layout.filled, P(rows, slots)),
    )
