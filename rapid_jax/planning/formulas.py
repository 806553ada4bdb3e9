"""Bytes and operations by arithmetic: what the compiled programs are held against, and how they change with length.

All are of the whole model, of all chips together.
"""

from __future__ import annotations

import math

import jax

from models.cache import ContextCache
from models.config import ModelConfig
from models.formats.base import item_bytes
from rapid_jax.planning.shapes import Plan


def bytes_of(tree: object) -> int:
    """Bytes of a tree of arrays or of their shapes."""
    return round(sum(math.prod(x.shape) * item_bytes(x.dtype) for x in jax.tree.leaves(tree)))


def chip_bytes(tree: object) -> int:
    """Bytes of a tree on one chip, by the shardings of its shapes."""
    shares = ((math.prod(x.sharding.shard_shape(x.shape)), x.dtype) for x in jax.tree.leaves(tree))
    return round(sum(size * item_bytes(dtype) for size, dtype in shares))


def weights_read(plan: Plan) -> int:
    """Bytes of the weights that a forward reads: of an input embedding that is not tied only a few rows."""
    total = bytes_of(plan.params)
    return total if plan.config.tie_embeddings else total - bytes_of(plan.params["embed"])


def kv_bytes_per_token(context: ContextCache) -> float:
    """Bytes of one token's keys and values in all layers, their scales included."""
    rows = context.k[0].shape[0]
    return bytes_of(context.held) / (rows * context.capacity)


def attention_flops(config: ModelConfig, queries: float, keys: float) -> float:
    """Operations of the scores and of the weighted values of all layers."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * queries * keys


def chunk_flops(plan: Plan, start: int, tokens: int) -> float:
    """Operations of a prefill chunk behind `start` tokens.

    Two a weight and token, and attention to all that came before and, on average, to half of the chunk. The last
    layer only makes its keys and values, because nothing is predicted.
    """
    c = plan.config
    attention = c.num_heads * c.head_dim * c.width
    keys_values = 2 * c.num_kv_heads * c.head_dim * c.width
    layer = 2 * attention + keys_values + 3 * c.width * c.ffn_width
    products = 2.0 * tokens * ((c.num_layers - 1) * layer + keys_values)
    seen = attention_flops(c, tokens, start + tokens / 2) * (c.num_layers - 1) / c.num_layers
    return products + seen
