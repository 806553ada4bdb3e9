"""Pages of a context: groups of neighbouring slots, chosen by the attention that they got, and copied out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache, Layers
from models.sharding import context_specs, rows_axis


@dataclasses.dataclass(frozen=True)
class Pages:
    """How a context is cut, and how much of it is taken.

    Attributes:
      slots: of a page.
      count: pages that are taken of each shard of the context.
    """

    slots: int
    count: int

    @classmethod
    def of(cls, context: ContextCache, slots: int, tokens: int) -> Pages:
        """Pages of up to `slots` slots that hold about so many tokens together.

        Every shard gives its share, at least two pages: the first and the last one are always among them.
        """
        shards = context.filled.shape[1]
        share = context.capacity // shards
        slots = math.gcd(slots, share)
        return cls(slots, min(max(2, -(-tokens // (slots * shards))), share // slots))


def take_pages(context: ContextCache, mass: Layers, pages: Pages, mesh: Mesh | None = None) -> ContextCache:
    """Copies the pages with the most attention, for each row, layer and KV head apart.

    The first page of the text and the last one of every shard are always taken. What is copied keeps the positions that
    are baked into its keys, so that attention over it is attention over the context with the rest left out. No shard
    needs what another one holds.

    Args:
      context: Bc documents, S slots on n shards.
      mass: of each layer float32 [B,K,S/slots], see `models.attention.pages.page_mass`; B is Bc, or more where Bc is 1.
      pages: see there.
      mesh: the context's.

    Returns:
      A context of B rows whose slots are the copies, in the order of the text on each shard, as long as the whole one:
      tokens behind it keep their positions.
    """
    rows = len(mass[0])

    def local(held: dict[str, Layers], mass: Layers, filled: jax.Array) -> tuple[dict[str, Layers], jax.Array]:
        filled = jnp.broadcast_to(filled, (len(mass[0]), 1))
        used = -(-filled // pages.slots)  # pages, the last one perhaps in part; [B,1]
        first = mesh is None or jax.lax.axis_index("context") == 0
        chosen = [_choose(one, used[:, :, None], first, pages.count) for one in mass]
        taken = {
            name: tuple(_take(x, index, pages.slots) for x, index in zip(layers, chosen, strict=True))
            for name, layers in held.items()
        }
        kept = jnp.minimum(used, pages.count) * pages.slots - (used * pages.slots - filled)
        return taken, kept.astype(jnp.int32)

    if mesh is not None:
        given, wanted = context_specs(context.k[0].shape[0]), context_specs(rows)
        in_layers: Any = {name: given[x[0].ndim] for name, x in context.held.items()}
        out_layers: Any = {name: wanted[x[0].ndim] for name, x in context.held.items()}
        axis, batch = rows_axis(context.k[0].shape[0]), rows_axis(rows)
        local = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(in_layers, P(batch, "model", "context"), P(axis, "context")),
            out_specs=(out_layers, P(batch, "context")),
            check_vma=False,
        )
    taken, filled = local(context.held, mass, context.filled)
    fields: dict[str, Any] = taken
    return ContextCache(**fields, length=jnp.broadcast_to(context.length, (rows,)), filled=filled)


def chosen_shapes(
    context: ContextCache, rows: int, pages: Pages
) -> tuple[ContextCache, tuple[jax.ShapeDtypeStruct, ...]]:
    """Shapes of what `take_pages` gives for so many rows, and of the mass that it is given."""
    shards, heads = context.filled.shape[1], context.k[0].shape[1]
    slots = shards * pages.count * pages.slots

    def taken(held: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, held.shape[1], slots, *held.shape[3:]), held.dtype)

    def numbers(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), jnp.int32)

    held: dict[str, Any] = {name: tuple(map(taken, layers)) for name, layers in context.held.items()}
    mass = jax.ShapeDtypeStruct((rows, heads, context.capacity // pages.slots), jnp.float32)
    return ContextCache(**held, length=numbers(), filled=numbers(shards)), (mass,) * len(context.k)


def _choose(mass: jax.Array, used: jax.Array, first: jax.Array | bool, count: int) -> jax.Array:
    """Indices int32 [B,K,count] of the pages with the most mass [B,K,n], growing; those out of use come last."""
    index = jnp.arange(mass.shape[2])[None, None, :]
    always = (index == used - 1) | ((index == 0) & first)
    wanted = jnp.where(index < used, jnp.where(always, jnp.inf, mass), -1.0)
    return jnp.sort(jax.lax.top_k(wanted, count)[1], axis=-1)


def _take(held: jax.Array, index: jax.Array, slots: int) -> jax.Array:
    """Pages [B,K,count*slots,...] of [Bc,K,S,...] at index [B,K,count]."""
    cut = held.reshape(*held.shape[:2], -1, slots, *held.shape[3:])

    def one_head(pages: jax.Array, index: jax.Array) -> jax.Array:
        return pages[index]

    one_row = jax.vmap(one_head)
    shared = len(held) < len(index)
    taken = jax.vmap(one_row, (None, 0))(cut[0], index) if shared else jax.vmap(one_row)(cut, index)
    return taken.reshape(*taken.shape[:2], -1, *held.shape[3:])
