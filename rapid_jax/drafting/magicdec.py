"""MagicDec: the target drafts for itself from the first tokens and the last ones of its own cache (arXiv 2408.11049).

The draft model is the target over a cache of constant size, the attention sinks and a sliding window of StreamingLLM
(arXiv 2309.17453). Nothing is read a second time: before the first step sinks and window are copied out of the
target's caches, and what a step commits is the keys and values of the verification, so that the window holds the
target's own at any time.

StreamingLLM keeps keys without their rotation and rotates them at their places 0..n-1 in the cache. RoPE sees distances
only, and those within the window, and from it to the tokens in flight, are the same at absolute positions. So the
window's keys keep the rotation that they have, in a ring whose order does not matter, and the sinks alone move: turned
on by as many positions as tokens were dropped between them and the window.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import Block, ContextCache, Layers, TailCache, commit, write_slots
from models.decoder import hidden_states
from models.formats.widening import restore, restore_keys
from models.rope import turn
from models.sharding import context_specs, rows_axis, tail_spec
from models.striping import token_slots
from rapid_jax.decoding.buckets import chunk_sizes
from rapid_jax.decoding.drafter import Outcome
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting.language_model import LanguageModelDrafter, Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class WindowCache(TailCache):
    """The last tokens' keys and values [B,K,W,H], a ring: token t behind the sinks lies in slot t modulo W.

    Attributes:
      dropped: int32 [B], tokens behind the sinks that the window has left.
    """

    dropped: jax.Array

    def append(self, block: Block, count: jax.Array, rows: jax.Array | None) -> WindowCache:
        """As `models.cache.commit` of no more than W tokens, over the oldest ones where the ring is full."""
        size = block.k[0].shape[2] if rows is None else rows.shape[1]
        offset = jnp.arange(size)[None, :]
        total = self.length + self.dropped
        slots = jnp.where(offset < count[:, None], (total[:, None] + offset) % self.capacity, self.capacity)
        length = jnp.minimum(self.length + count, self.capacity)
        return WindowCache(*write_slots(self, block, slots, rows), length, total + count - length)


@dataclasses.dataclass(frozen=True)
class MagicDecDrafter(LanguageModelDrafter):
    """Draws as `LanguageModelDrafter`; the context is the sinks, the cache a `WindowCache` of all but the last token.

    The sinks have the rotation of the positions that they were read at; each forward turns them to where they belong.
    The window slides by what a step commits. Within a draft it stands still, and the drafted tokens come on top of it.
    """

    def forward(
        self, model: Model, cache: TailCache, drafted: TailCache, tokens: jax.Array, warping: Warping
    ) -> tuple[jax.Array, TailCache]:
        assert isinstance(cache, WindowCache)
        params, sinks = model
        tokens = tokens[:, -1:]  # of the last two committed ones the window holds the first
        turned = tuple(turn(k, cache.dropped, self.decoder.config.rope) for k in sinks.k)
        positions = sinks.length + cache.dropped + cache.length + drafted.length
        hidden, block = hidden_states(
            self.decoder, params, tokens, positions[:, None], dataclasses.replace(sinks, k=turned), cache, drafted
        )
        return self.warped_logits(params, hidden[:, -1], warping), commit(drafted, block, jnp.ones_like(drafted.length))

    def commit(self, cache: TailCache, drafted: Any, outcome: Outcome) -> TailCache:
        assert isinstance(cache, WindowCache) and outcome.block is not None  # it is on the target's devices
        return cache.append(outcome.block, outcome.count, outcome.rows)


def take_window(
    programs: Programs,
    context: ContextCache,
    tail: TailCache,
    *,
    tokens: Sequence[int],
    chunk: int,
    sinks: int,
    window: int,
    mesh: Mesh | None = None,
) -> tuple[TailCache, WindowCache]:
    """Copies sinks and window out of what the target has read, in one pass.

    Args:
      context: of prefill_context; keys and values of a narrow format are restored.
      tail: the questions behind it, without their last token.
      tokens: that each row of the context was striped for, Bc numbers: its own length where it was read alone, that of
        the longest where all were read together.
      chunk: tokens of a prefill chunk.
      sinks: first tokens of the document to keep; of a shorter one all.
      window: W; less where documents and tails have no room for so many tokens.
      mesh: the target's.

    Returns:
      (the sinks, the window), a row for each row of the tail.
    """
    shards, capacity = context.filled.shape[1], context.capacity
    rows = [token_slots(chunk_sizes(length, chunk), shards, capacity) for length in tokens]
    slots = np.stack([np.pad(row, (0, capacity - len(row))) for row in rows])  # sizes do not depend on the documents
    sinks = min(sinks, context.capacity)
    window = min(window, context.capacity + tail.capacity)  # static, and no larger than it can get
    args = (context, tail, hosts.put(slots, None if mesh is None else NamedSharding(mesh, P())))
    placed: Any = None
    if mesh is not None:
        kv: Any = NamedSharding(mesh, tail_spec(len(tail.length)))
        number: Any = NamedSharding(mesh, P(rows_axis(len(tail.length))))
        placed = (TailCache(kv, kv, number), WindowCache(kv, kv, number, number))
    return programs.get(copy_window, (mesh, sinks, window), args, out_shardings=placed)(*args)


def copy_window(
    mesh: Mesh | None, sinks: int, window: int, context: ContextCache, tail: TailCache, slots: jax.Array
) -> tuple[TailCache, WindowCache]:
    """The copies of `take_window`; slots int32 [Bc,S] are where each document's tokens lie in the context."""
    batch = len(tail.length)
    # 1. Which token of the text each slot of the ring holds: slot t % W has the newest token t behind the sinks.
    first = jnp.broadcast_to(jnp.minimum(context.length, sinks), (batch,))
    read = jnp.broadcast_to(context.length, (batch,))
    total = read + tail.length - first
    ring = jnp.arange(window)[None, :]
    newest = ring + (total[:, None] - 1 - ring) // window * window  # the last token of each slot, below 0 for none
    start = jnp.broadcast_to(jnp.arange(sinks)[None, :], (batch, sinks))
    wanted = jnp.concatenate([start, first[:, None] + jnp.maximum(newest, 0)], axis=1)
    # 2. Where that token lies now: in the document's cache, or in the tail behind it; -1 is "not there".
    from_context = wanted < read[:, None]
    lie = jnp.broadcast_to(slots, (batch, slots.shape[1]))
    lie = jnp.take_along_axis(lie, jnp.minimum(wanted, slots.shape[1] - 1), axis=1)
    in_context = jnp.where(from_context, lie, -1)
    in_tail = jnp.where(from_context, -1, wanted - read[:, None])

    def layers(floats: Callable, tails: Layers, **stored: Layers | None) -> Layers:
        held = {name: kind for name, kind in stored.items() if kind is not None}
        each = [{name: kind[layer] for name, kind in held.items()} for layer in range(len(tails))]
        gather = functools.partial(_gather, mesh, floats, in_context=in_context, in_tail=in_tail)
        return tuple(map(gather, each, tails))

    # 3. The copies, layer by layer, sinks first.
    c = context
    k = layers(restore_keys, tail.k, x=c.k, scale=c.k_scale, rest=c.k_rest)
    v = layers(restore, tail.v, x=c.v, scale=c.v_scale, rest=c.v_rest)
    length = jnp.minimum(total, window)
    return (
        TailCache(tuple(x[:, :, :sinks] for x in k), tuple(x[:, :, :sinks] for x in v), first),
        WindowCache(tuple(x[:, :, sinks:] for x in k), tuple(x[:, :, sinks:] for x in v), length, total - length),
    )


def _gather(
    mesh: Mesh | None,
    floats: Callable,
    held: dict[str, jax.Array],
    tail: jax.Array,
    in_context: jax.Array,
    in_tail: jax.Array,
) -> jax.Array:
    """Slots int32 [B,M] of a context [Bc,K,S,H] and of tails [B,K,R,H] -> [B,K,M,H]; a slot below 0 is elsewhere.

    The context is held as `floats` takes it, which is `restore` or `restore_keys`. Every shard of it gives what it
    holds and 0 for the rest: over the wire go M tokens, however many S are.
    """

    def take(cache: jax.Array, index: jax.Array) -> jax.Array:
        """[Bc,K,S,H] or [Bc,K,S] at index [B,M]; 0 where the index is outside."""
        inside = (index >= 0) & (index < cache.shape[2])

        def one(cache: jax.Array, index: jax.Array) -> jax.Array:
            return jnp.take(cache, index, axis=1, mode="clip")

        shared = len(cache) < len(index)
        found = jax.vmap(one, (None, 0))(cache[0], index) if shared else jax.vmap(one)(cache, index)
        return jnp.where(inside.reshape(len(index), 1, -1, *[1] * (cache.ndim - 3)), found, 0)

    def local(held: dict[str, jax.Array], tail: jax.Array, in_context: jax.Array, in_tail: jax.Array) -> jax.Array:
        if mesh is not None:
            in_context = in_context - jax.lax.axis_index("context") * held["x"].shape[2]
        taken = {name: take(x, in_context) for name, x in held.items()}
        found = floats(taken.pop("x"), tail.dtype, **taken)
        if mesh is not None:
            found = jax.lax.psum(found, "context")
        return found + take(tail, in_tail)

    if mesh is None:
        return local(held, tail, in_context, in_tail)
    specs, rows = context_specs(len(held["x"])), P(rows_axis(len(tail)))
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            {name: specs[x.ndim] for name, x in held.items()},
            tail_spec(len(tail)),
            rows,
            rows,
        ),
        out_specs=tail_spec(len(tail)),
        check_vma=False,
    )(held, tail, in_context, in_tail)
