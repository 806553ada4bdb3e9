"""Initial weights for a small decoder that must learn to look things up.

From plain random weights recall emerges late, and until then nearly every step is lost. Four circuits are therefore laid
down at the start, and trained like everything else:

- Layer 0 looks back: its heads attend one, two and three tokens back, and to the last few tokens together. Every
  embedding has one constant coordinate, so query and key can be constant vectors k rotary steps apart, whose product
  peaks at distance k (RoFormer, arXiv 2104.09864, Eq. 16).
- Head 0 of the later layers compares the current and the previous token with what stood one and two tokens before each
  candidate, and copies the candidate: an induction head (arXiv 2209.11895).
- Head 2 of layer 1 attends to the latest name, which a second coordinate of the embedding marks, and writes it down.
- Head 1 of the layers after that compares these names, and copies: it finds what is said of the same person.

Comparisons use slow rotary pairs alone, so that distance does not matter.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.decoder import Decoder
from models.rope import inverse_frequencies

_MARK = 4.0  # a marking coordinate after RMSNorm
_FAST, _MEDIUM = (0, 8), (3, 8)  # rotary pairs that tell neighbours apart, and that hardly do
_LOOKS = ((1, _FAST, 1.75), (2, _FAST, 1.75), (3, _FAST, 1.75), (0, _MEDIUM, 1.0))  # tokens back, pairs, sharpness
_SLOW = 0.4  # share of the pairs, from the fastest, that comparisons leave out
_WRITE = 0.1  # scale of what a head writes
_QUIET = 0.1  # how much less than usual the MLPs say at first


def initial_parameters(config: ModelConfig, key: jax.Array, names: jax.Array, values: jax.Array) -> dict:
    """The decoder's parameter tree, float32. Needs 4 ungrouped heads and 3 * head_dim <= width.

    `names` are the ids of tokens that end a person's name, `values` those of words that answers are made of.
    """
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = nn.meta.unbox(jax.jit(Decoder(config).init)(key, tokens, tokens))["params"]
    width, heads, size = config.width, config.num_heads, config.head_dim
    mark = _MARK * width**-0.5
    embed = params["embed"]["weight"].at[:, -3:].set(jnp.array([[0.0, 0.0, mark]]))
    params["embed"]["weight"] = embed.at[names, -2].set(mark).at[values, -3].set(mark)
    frequencies = jnp.asarray(inverse_frequencies(config.rope, size))
    read, write, noted = (_orthonormal(jax.random.fold_in(key, i), (heads, size, width)) for i in (100, 101, 102))
    depth = (2 * config.num_layers) ** -0.5
    for i in range(config.num_layers):
        layer = params[f"layers_{i}"]
        draws = iter(jax.random.split(jax.random.fold_in(key, i), 7))

        def normal(*shape: int, fan_in: int) -> jax.Array:
            return jax.random.normal(next(draws), shape) * fan_in**-0.5  # noqa: B023

        q, k, v = (normal(heads, size, width, fan_in=width) for _ in range(3))
        out = normal(width, heads, size, fan_in=heads * size) * depth
        copied = _orthonormal(jax.random.fold_in(key, 200 + i), (heads, size, width))

        def note(head: int, reads: jax.Array, writes: jax.Array, scale: float) -> None:
            nonlocal v, out
            v = v.at[head].set(reads)  # noqa: B023
            out = out.at[:, head].set(_WRITE * scale * writes.T)  # noqa: B023

        if i == 0:
            for head, (back, pairs, weight) in enumerate(_LOOKS):
                q = q.at[head].set(0.0).at[head, :, -1].set(_rotary(weight, pairs, 0, frequencies))
                k = k.at[head].set(0.0).at[head, :, -1].set(_rotary(weight, pairs, back, frequencies))
                note(head, read[head], write[head], 1.0)
        else:
            q = q.at[0].set(_blend(size, read[0], write[0]))
            k = k.at[0].set(_blend(size, write[0], write[1]))
            note(0, copied[0], copied[0], 1.0)
        if i == 1:
            recent = _rotary(2.5, _MEDIUM, 0, frequencies)
            q = q.at[2].set(0.0).at[2, :, -1].set(recent)
            k = k.at[2].set(0.0).at[2, :, -2].set(recent)
            full_name = jnp.where((jnp.arange(size) % 2 == 0)[:, None], copied[2], write[0])
            note(2, full_name, noted[0], 2.5)
        if i > 1:
            same = 0.75 * _blend(size, noted[0], noted[0])
            q = q.at[1].set(same.at[-1].set(0.0).at[-1, -1].set(5.5))
            k = k.at[1].set(same.at[-1].set(0.0).at[-1, -3].set(5.5))
            note(1, copied[1], copied[1], 3.0)
        for name, weight in {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": out}.items():
            layer["attn"][name]["weight"] = weight
        layer["mlp"]["gate_proj"]["weight"] = normal(config.ffn_width, width, fan_in=width)
        layer["mlp"]["up_proj"]["weight"] = normal(config.ffn_width, width, fan_in=width)
        layer["mlp"]["down_proj"]["weight"] = normal(width, config.ffn_width, fan_in=config.ffn_width) * _QUIET * depth
    return params


def _orthonormal(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[heads, size, width]: rows orthonormal within every run of width // size heads, blind to the marking coordinates."""
    heads, size, width = shape
    turns = [jnp.linalg.qr(jax.random.normal(k, (width, width)))[0] for k in jax.random.split(key, heads)]
    return jnp.concatenate(turns)[: heads * size].reshape(shape).at[:, :, -3:].set(0.0)


def _rotary(weight: float, pairs: tuple[int, int], back: int, frequencies: jax.Array) -> jax.Array:
    """[size]: `weight` in a range of rotary pairs, turned by `back` steps."""
    pair = jnp.arange(frequencies.shape[0])
    length = jnp.where((pair >= pairs[0]) & (pair < pairs[1]), weight, 0.0)
    return jnp.concatenate([length * jnp.cos(back * frequencies), length * jnp.sin(back * frequencies)])


def _blend(size: int, even: jax.Array, odd: jax.Array) -> jax.Array:
    """[size, width]: a comparison's projection in the slow rotary pairs, even ones from one subspace, odd ones from another."""
    pair = jnp.arange(size) % (size // 2)
    rows = jnp.where((pair % 2 == 0)[:, None], even, odd)
    return 1.7 * (pair >= _SLOW * (size // 2))[:, None] * rows
