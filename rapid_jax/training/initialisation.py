"""Initial weights for a small decoder that must learn to look things up.

From plain random weights recall emerges late, and until then nearly every step is lost. Some circuits are therefore
laid down at the start, and trained like everything else:

- Layer 0 looks back: its heads attend one, two and three tokens back, and to the last few tokens together. One
  coordinate of every embedding is constant, so query and key can be constant vectors k rotary steps apart, whose
  product peaks at distance k (RoFormer, arXiv 2104.09864, Eq. 16).
- Head 0 of the later layers compares the current and the previous token with what stood one and two tokens before each
  candidate, and copies the candidate: an induction head (arXiv 2209.11895).
- Head 2 of layer 1 attends to the latest name, which another coordinate of the embedding marks, and notes it down.
- Head 1 of the layers after that compares these notes, favours tokens that a third coordinate marks as values, and
  copies: it finds what is said of the same person. Head 3 there is an induction head that compares the notes as well:
  it goes on quoting from the right person's record.

Comparisons use slow rotary pairs alone, so that distance does not matter. A learning rate much above 1e-3 washes the
circuits out before they are of use.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.config import ModelConfig
from models.decoder import Decoder
from models.rope import inverse_frequencies

_MARK = 4.0  # a marking coordinate after RMSNorm
_CONSTANT, _NAME, _VALUE = -1, -2, -3  # the coordinates that mark every token, names, and values
_FAST, _MEDIUM = (0, 8), (3, 8)  # rotary pairs that tell neighbours apart, and that hardly do
_LOOKS = ((1, _FAST, 1.75), (2, _FAST, 1.75), (3, _FAST, 1.75), (0, _MEDIUM, 1.0))  # tokens back, pairs, sharpness
_SLOW = 0.4  # share of the pairs, from the fastest, that comparisons leave out
_MATCH, _FAVOUR = 1.7, 5.5  # weight of a comparison, and of the preference for values
_WRITE = 0.1  # scale of what a head writes
_QUIET = 0.1  # how much less than usual the MLPs say at first


def initial_parameters(config: ModelConfig, key: jax.Array, names: np.ndarray, values: np.ndarray) -> dict:
    """The decoder's parameter tree, float32. Needs 4 ungrouped heads and 3 * head_dim <= width.

    `names` are the ids of tokens that end a person's name, `values` those of words that answers are made of.
    """
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = nn.meta.unbox(jax.jit(Decoder(config).init)(key, tokens, tokens))["params"]
    width, heads, size = config.width, config.num_heads, config.head_dim
    mark = _MARK * width**-0.5
    embed = params["embed"]["weight"].at[:, _VALUE:].set(jnp.array([[0.0, 0.0, mark]]))
    params["embed"]["weight"] = embed.at[names, _NAME].set(mark).at[values, _VALUE].set(mark)
    depth = (2 * config.num_layers) ** -0.5
    for i in range(config.num_layers):
        layer = params[f"layers_{i}"]
        keys = jax.random.split(jax.random.fold_in(key, i), 7)
        attn = {
            name: jax.random.normal(k, (heads, size, width)) * width**-0.5
            for name, k in zip(("q_proj", "k_proj", "v_proj"), keys[:3], strict=True)
        }
        attn["o_proj"] = jax.random.normal(keys[3], (width, heads, size)) * (heads * size) ** -0.5 * depth
        for name, weight in _lay_circuits(attn, i, config, key).items():
            layer["attn"][name]["weight"] = weight
        for name, k in zip(("gate_proj", "up_proj"), keys[4:6], strict=True):
            layer["mlp"][name]["weight"] = jax.random.normal(k, (config.ffn_width, width)) * width**-0.5
        down = jax.random.normal(keys[6], (width, config.ffn_width)) * config.ffn_width**-0.5
        layer["mlp"]["down_proj"]["weight"] = down * _QUIET * depth
    return params


def _lay_circuits(attn: dict[str, jax.Array], layer: int, config: ModelConfig, key: jax.Array) -> dict[str, jax.Array]:
    """One layer's projections with its circuits in the place of some random heads."""
    shape = (config.num_heads, config.head_dim, config.width)
    frequencies = jnp.asarray(inverse_frequencies(config.rope, config.head_dim))
    read, back, noted = (_orthonormal(jax.random.fold_in(key, i), shape) for i in (100, 101, 102))
    copied = _orthonormal(jax.random.fold_in(key, 200 + layer), shape)
    blank = jnp.zeros(shape[1:])

    def lay(head: int, q: jax.Array, k: jax.Array, reads: jax.Array, writes: jax.Array, scale: float = 1.0) -> None:
        attn["q_proj"] = attn["q_proj"].at[head].set(q)
        attn["k_proj"] = attn["k_proj"].at[head].set(k)
        attn["v_proj"] = attn["v_proj"].at[head].set(reads)
        attn["o_proj"] = attn["o_proj"].at[:, head].set(_WRITE * scale * writes.T)

    if layer == 0:
        for head, (steps, pairs, sharpness) in enumerate(_LOOKS):
            q = blank.at[:, _CONSTANT].set(_rotary(sharpness, pairs, 0, frequencies))
            k = blank.at[:, _CONSTANT].set(_rotary(sharpness, pairs, steps, frequencies))
            lay(head, q, k, read[head], back[head])
        return attn
    lay(0, _MATCH * _slow(read[0], back[0]), _MATCH * _slow(back[0], back[1]), copied[0], copied[0])
    if layer == 1:
        latest = _rotary(2.5, _MEDIUM, 0, frequencies)
        full_name = jnp.where((jnp.arange(config.head_dim) % 2 == 0)[:, None], copied[2], back[0])
        q, k = blank.at[:, _CONSTANT].set(latest), blank.at[:, _NAME].set(latest)
        lay(2, q, k, full_name, noted[0], 2.5)
    else:
        same = (0.75 * (_MATCH * _slow(noted[0], noted[0]))).at[-1].set(0.0)
        q, k = same.at[-1, _CONSTANT].set(_FAVOUR), same.at[-1, _VALUE].set(_FAVOUR)
        lay(1, q, k, copied[1], copied[1], 3.0)
        q, k = _slow(read[0], back[0], noted[0]), _slow(back[0], back[1], noted[0])
        lay(3, _MATCH * q, _MATCH * k, copied[0], copied[0], 2.0)
    return attn


def _orthonormal(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[heads, size, width]: rows orthonormal within every run of width // size heads, blind to the marks."""
    heads, size, width = shape
    turns = [jnp.linalg.qr(jax.random.normal(k, (width, width)))[0] for k in jax.random.split(key, heads)]
    return jnp.concatenate(turns)[: heads * size].reshape(shape).at[:, :, _VALUE:].set(0.0)


def _rotary(weight: float, pairs: tuple[int, int], steps: int, frequencies: jax.Array) -> jax.Array:
    """[size]: `weight` in a range of rotary pairs, turned by `steps` positions."""
    pair = jnp.arange(frequencies.shape[0])
    length = jnp.where((pair >= pairs[0]) & (pair < pairs[1]), weight, 0.0)
    return jnp.concatenate([length * jnp.cos(steps * frequencies), length * jnp.sin(steps * frequencies)])


def _slow(*parts: jax.Array) -> jax.Array:
    """[size, width]: rows for the slow rotary pairs, from each of some subspaces in turn; zero for the fast."""
    half = parts[0].shape[0] // 2
    pair = jnp.arange(2 * half) % half
    rows = jnp.select([(pair % len(parts) == i)[:, None] for i in range(len(parts))], parts)
    return (pair >= _SLOW * half)[:, None] * rows
