"""The transformer: tokens, positions and caches in; hidden states and the new tokens' keys and values out."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from models import rope
from models.attention import Segment, attend, page_mass
from models.cache import Block, KVCache
from models.config import ModelConfig
from models.layers import Embedding, GatedMLP, OutputHead, Projection, RMSNorm

Attended = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]  # output [B,T,D]; keys, values [B,K,T,H]; mass


class SelfAttention(nn.Module):
    """Grouped-query attention of a block of tokens over the caches and itself.

    Attributes:
      config, dtype, mesh, backend, weights: see Decoder.
      page: slots of the pages of the first cache whose attention is summed up; 0 leaves that out.
    """

    config: ModelConfig
    dtype: jnp.dtype
    mesh: Mesh | None
    backend: str | None
    weights: str = ""
    page: int = 0

    def setup(self) -> None:
        c = self.config
        embed, kind = ((c.width,), ("embed",)), (self.dtype, self.weights)
        kv = ((c.num_kv_heads, c.head_dim), ("kv_heads", "head_dim"), *embed, c.qkv_bias, *kind)
        heads = ((c.num_heads, c.head_dim), ("heads", "head_dim"))
        self.q_proj = Projection(*heads, *embed, c.qkv_bias, *kind)
        self.k_proj = Projection(*kv)
        self.v_proj = Projection(*kv)
        self.o_proj = Projection(*embed, *heads, c.output_bias, *kind)
        if c.qk_norm:
            self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps, "head_dim", self.dtype)
            self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps, "head_dim", self.dtype)

    def __call__(
        self, x: jax.Array, rotation: tuple[jax.Array, jax.Array], past: tuple[Segment, ...], mask: jax.Array | None
    ) -> Attended:
        """X [B,T,D] -> (output [B,T,D], keys [B,K,T,H], values [B,K,T,H], mass [B,K,pages] or None)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        with jax.named_scope("rotate"):
            q, k = rope.rotate(q, *rotation), rope.rotate(k, *rotation)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        with jax.named_scope("attend"):  # modules have their names in a profile, this call would have none
            out = attend(q, (*past, Segment(k, v, mask=mask)), mesh=self.mesh, backend=self.backend)
        mass = page_mass(q, past[0], self.page, self.mesh) if self.page else None
        return self.o_proj(out), k, v, mass


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    config: ModelConfig
    dtype: jnp.dtype
    mesh: Mesh | None
    backend: str | None
    weights: str = ""
    page: int = 0

    def setup(self) -> None:
        norm = functools.partial(RMSNorm, self.config.width, self.config.rms_norm_eps, "embed", self.dtype)
        self.input_norm = norm()
        self.attn = SelfAttention(self.config, self.dtype, self.mesh, self.backend, self.weights, self.page)
        self.post_attn_norm = norm()
        self.mlp = GatedMLP(self.config, self.dtype, self.weights)

    def __call__(
        self, x: jax.Array, rotation: tuple[jax.Array, jax.Array], past: tuple[Segment, ...], mask: jax.Array | None
    ) -> Attended:
        """As SelfAttention."""
        out, k, v, mass = self.attn(self.input_norm(x), rotation, past, mask)
        x = x + out
        return x + self.mlp(self.post_attn_norm(x)), k, v, mass


@functools.partial(jax.jit, static_argnums=0)
def _layer(layer: Layer, params: dict, *args: Any) -> Attended:
    """`Layer.__call__` with explicit parameters: traced and lowered once for all layers of the same shapes."""
    return cast(Any, layer.apply({"params": params}, *args))


class Decoder(nn.Module):
    """A decoder-only language model as a pure function over explicit caches.

    Attributes:
      config: the model's numbers.
      dtype: of weights and activations; norms, RoPE angles, softmax and logits are float32.
      mesh: devices that attention is split over; None for one device.
      backend: attention backend; None picks.
      weights: format of the matrices (models.formats), "" for dtype; the embedding, also a tied one, norms and biases
        are in dtype always.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    mesh: Mesh | None = None
    backend: str | None = None
    weights: str = ""

    def setup(self) -> None:
        c = self.config
        self.embed = Embedding(c.vocab_size, c.width, self.dtype)
        self.layers = [Layer(c, self.dtype, self.mesh, self.backend, self.weights) for _ in range(c.num_layers)]
        self.final_norm = RMSNorm(c.width, c.rms_norm_eps, "embed", self.dtype)
        if not c.tie_embeddings:
            self.lm_head = OutputHead(c.vocab_size, c.width, self.dtype, self.weights)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        *caches: KVCache | None,
        mask: jax.Array | None = None,
        page: int = 0,
    ) -> tuple[jax.Array, Block]:
        """Runs a block of tokens over what the caches hold.

        Args:
          tokens: int32 [B,T].
          positions: int32 [B,T], each token's position for RoPE.
          caches: what came before; None for nothing.
          mask: bool [T,T] or [B,T,T], what each token of the block sees of the block; None is causal.
          page: with a number of slots, the block says how much attention each page of the first cache got.

        Returns:
          (hidden states after the final norm [B,T,D], the block's keys and values).
        """
        x = self.embed(tokens)
        with jax.named_scope("rotation"):
            rotation = rope.rotation(positions, self.config.rope, self.config.head_dim)
        before = [cache for cache in caches if cache is not None]
        made = []
        alike = Layer(self.config, self.dtype, self.mesh, self.backend, self.weights, page, parent=None)
        for index, layer in enumerate(self.layers):
            past = tuple(cache.segment(index) for cache in before)
            args = (x, rotation, past, mask)
            x, *rest = layer(*args) if self.is_initializing() else _layer(alike, layer.variables["params"], *args)
            made.append(rest)
        keys, values, mass = zip(*made, strict=True)
        return self.final_norm(x), Block(keys, values, mass if page else None)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., D] -> float32 logits [..., V]."""
        with jax.named_scope("logits"):
            return (self.embed if self.config.tie_embeddings else self.lm_head).logits(hidden)

    def forward_logits(self, *args: Any, **kwargs: Any) -> tuple[jax.Array, Block]:
        """As `__call__`, with float32 logits [B,T,V] in the place of hidden states."""
        hidden, block = self(*args, **kwargs)
        return self.logits(hidden), block


def hidden_states(
    decoder: Decoder,
    params: dict,
    tokens: jax.Array,
    positions: jax.Array,
    *caches: KVCache | None,
    mask: jax.Array | None = None,
    page: int = 0,
) -> tuple[jax.Array, Block]:
    """`Decoder.__call__` with explicit parameters."""
    return cast(Any, decoder.apply({"params": params}, tokens, positions, *caches, mask=mask, page=page))


def output_logits(decoder: Decoder, params: dict, hidden: jax.Array) -> jax.Array:
    """`Decoder.logits` with explicit parameters."""
    return cast(Any, decoder.apply({"params": params}, hidden, method="logits"))
