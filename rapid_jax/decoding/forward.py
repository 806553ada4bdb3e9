"""The forward over a block in flight, without the rows that nobody proposed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.cache import Block, KVCache
from models.decoder import Decoder, hidden_states


def forward_block(
    decoder: Decoder,
    params: dict,
    tokens: jax.Array,
    positions: jax.Array,
    caches: tuple[KVCache, ...],
    output: Callable[[jax.Array], jax.Array],
    *,
    mask: jax.Array | None = None,
    proposed: jax.Array | None = None,
    head: int = 1,
) -> tuple[jax.Array, Block]:
    """Runs a block of tokens over what the caches hold.

    Args:
      decoder, params: the model.
      tokens, positions: int32 [B,T].
      caches: what came before.
      output: hidden states [B,T,D] -> the outputs that are wanted [B,T,...].
      mask: bool [T,T] or [B,T,T], what each token sees of the block; None is causal.
      proposed: bool scalar, whether any row of the batch has tokens behind the first `head`; where not, only these are
        computed. None computes all of them always.
      head: tokens of the block that are always computed; the last of them sees all of them.

    Returns:
      (outputs, the block's keys and values); what was not computed is 0.
    """

    def forward(count: int) -> tuple[jax.Array, Block]:
        own = None if mask is None else mask[..., :count, :count]
        hidden, block = hidden_states(decoder, params, tokens[:, :count], positions[:, :count], *caches, mask=own)
        return output(hidden), block

    size = tokens.shape[1]
    if proposed is None or head == size:
        return forward(size)

    def padded() -> tuple[jax.Array, Block]:
        outputs, block = forward(head)

        def pad(x: jax.Array, axis: int) -> jax.Array:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, size - head)
            return jnp.pad(x, widths)

        return pad(outputs, 1), Block(tuple(pad(k, 2) for k in block.k), tuple(pad(v, 2) for v in block.v))

    return jax.lax.cond(proposed, lambda: forward(size), padded)
