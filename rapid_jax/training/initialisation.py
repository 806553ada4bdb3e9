"""Initial weights for a small decoder that must learn to look things up.

From plain random weights recall emerges late, and until then nearly every step is lost. Three circuits are therefore laid
down at the start, and trained like everything else:

- Layer 0 looks back: its heads attend one token back, two tokens back, and to the last few tokens together. Every
  embedding has one constant coordinate, so query and key can be constant vectors k rotary steps apart, whose product
  peaks at distance k (RoFormer, arXiv 2104.09864, Eq. 16). The heads write to subspaces of their own.
- Head 0 of the later layers compares the current and the previous token with what stood one and two tokens before each
  candidate, and copies the candidate: an induction head (arXiv 2209.11895).
- Head 1 of the later layers compares the last few tokens with those of each candidate and copies it: it finds the
  sentence that speaks of the same words. Comparisons use slow rotary pairs alone, so that distance does not matter.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.decoder import Decoder
from models.rope import inverse_frequencies

_CONSTANT = 4.0  # the constant coordinate after RMSNorm
_SHARPNESS = 1.75  # weight of a constant query or key in one rotary pair
_BACK_PAIRS = (0, 8)  # fast rotary pairs tell neighbours apart
_WINDOW_PAIRS = (3, 8)  # somewhat slower ones hardly tell the last few tokens apart
_SLOW_PAIRS = 0.4  # share of the rotary pairs, from the fastest, that comparisons leave out
_MATCH = 1.7  # weight of a comparison
_WRITE = 0.1  # what a layer 0 head writes, relative to what it reads


def initial_parameters(config: ModelConfig, key: jax.Array) -> dict:
    """The decoder's parameter tree, float32. Needs at least 3 heads, no grouping, and heads * head_dim >= width."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = nn.meta.unbox(jax.jit(Decoder(config).init)(key, tokens, tokens))["params"]
    width, heads, size = config.width, config.num_heads, config.head_dim
    params["embed"]["weight"] = params["embed"]["weight"].at[:, -1].set(_CONSTANT * width**-0.5)
    # Rows of `read` are orthonormal within a head; three heads' rows of `write` are orthonormal together.
    read, write = (_orthonormal(jax.random.fold_in(key, i), (heads, size, width)) for i in (100, 101))
    depth = (2 * config.num_layers) ** -0.5
    for i in range(config.num_layers):
        layer = params[f"layers_{i}"]
        draws = iter(jax.random.split(jax.random.fold_in(key, i), 7))

        def normal(*shape: int, fan_in: int) -> jax.Array:
            return jax.random.normal(next(draws), shape) * fan_in**-0.5  # noqa: B023

        q, k, v = (normal(heads, size, width, fan_in=width) for _ in range(3))
        out = normal(width, heads, size, fan_in=heads * size) * depth
        if i == 0:
            q, k = _look_back(q, k, jnp.asarray(inverse_frequencies(config.rope, size)))
            v = v.at[:3].set(read[:3])
            out = out.at[:, :3].set(_WRITE * jnp.transpose(write[:3], (2, 0, 1)) * jnp.array([1.0, 1.0, 2.0])[None, :, None])
        else:
            q, k = _compare(q, k, read, write)
            copied = _orthonormal(jax.random.fold_in(key, 200 + i), (heads, size, width))[:2]
            v = v.at[:2].set(copied)
            out = out.at[:, :2].set(_WRITE * jnp.transpose(copied, (2, 0, 1)))
        for name, weight in {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": out}.items():
            layer["attn"][name]["weight"] = weight
        layer["mlp"]["gate_proj"]["weight"] = normal(config.ffn_width, width, fan_in=width)
        layer["mlp"]["up_proj"]["weight"] = normal(config.ffn_width, width, fan_in=width)
        layer["mlp"]["down_proj"]["weight"] = normal(width, config.ffn_width, fan_in=config.ffn_width) * depth
    return params


def _orthonormal(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[heads, size, width]: rows orthonormal within every run of width // size heads, blind to the constant coordinate."""
    heads, size, width = shape
    turns = [jnp.linalg.qr(jax.random.normal(k, (width, width)))[0] for k in jax.random.split(key, heads)]
    return jnp.concatenate(turns)[: heads * size].reshape(shape).at[:, :, -1].set(0.0)


def _look_back(q: jax.Array, k: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Heads 0, 1, 2 attend 1 token back, 2 tokens back, and to the last few tokens: constant queries and keys."""
    pair = jnp.arange(frequencies.shape[0])
    for head, (back, (start, stop)) in enumerate(((1, _BACK_PAIRS), (2, _BACK_PAIRS), (0, _WINDOW_PAIRS))):
        length = jnp.where((pair >= start) & (pair < stop), _SHARPNESS, 0.0)
        angle = back * frequencies
        query = jnp.concatenate([length, jnp.zeros_like(length)])
        key = jnp.concatenate([length * jnp.cos(angle), length * jnp.sin(angle)])
        q = q.at[head].set(0.0).at[head, :, -1].set(query)
        k = k.at[head].set(0.0).at[head, :, -1].set(key)
    return q, k


def _compare(q: jax.Array, k: jax.Array, read: jax.Array, write: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Head 0 compares (this token, 1 back) with (1 back, 2 back); head 1 compares the last few tokens with one another."""
    size = q.shape[1]
    pair = jnp.arange(size) % (size // 2)
    slow = (pair >= _SLOW_PAIRS * (size // 2))[:, None]
    even = (pair % 2 == 0)[:, None]
    q = q.at[0].set(_MATCH * slow * jnp.where(even, read[0], write[0]))
    k = k.at[0].set(_MATCH * slow * jnp.where(even, write[0], write[1]))
    both = _MATCH * slow * write[2]
    return q.at[1].set(both), k.at[1].set(both)
