"""Rotary position embedding (RoFormer, arXiv 2104.09864) with the stretches that LLaMA and Qwen use."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from models.config import RopeConfig


def inverse_frequencies(config: RopeConfig, head_dim: int) -> np.ndarray:
    """Angular frequency of each pair of dimensions, in radians a token: float32 [H/2]."""
    inverse = 1.0 / config.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if config.kind == "linear":
        inverse = inverse / config.factor
    elif config.kind == "llama3":
        inverse = _llama3(inverse, config)
    elif config.kind == "yarn":
        inverse = _yarn(inverse, config, head_dim)
    return inverse.astype(np.float32)


def _llama3(inverse: np.ndarray, config: RopeConfig) -> np.ndarray:
    """Long wavelengths are divided by `factor`, short ones kept, the band between interpolated (LLaMA-3.1)."""
    rotations = config.original_max_position * inverse / (2 * math.pi)
    band = config.high_freq_factor - config.low_freq_factor
    keep = np.clip((rotations - config.low_freq_factor) / band, 0.0, 1.0)
    return keep * inverse + (1 - keep) * inverse / config.factor


def _yarn(inverse: np.ndarray, config: RopeConfig, head_dim: int) -> np.ndarray:
    """Interpolates by how often a dimension turns within the original context (YaRN, arXiv 2309.00071, Eq. 20-23)."""

    def dimension(rotations: float) -> float:
        turns = config.original_max_position / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2) - low) / (high - low or 0.001)
    keep = 1 - np.clip(ramp, 0.0, 1.0)
    return keep * inverse + (1 - keep) * inverse / config.factor


def rotation(positions: jax.Array, config: RopeConfig, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position: positions int32 [B,T] -> two float32 [B,T,H/2], YaRN's scale included."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config, head_dim)[None, None, :]
    return jnp.cos(angles) * config.attention_factor, jnp.sin(angles) * config.attention_factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates x [B,T,heads,H] by [B,T,H/2]; dimension i is paired with i + H/2, as Hugging Face does."""
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def turn(keys: jax.Array, distance: jax.Array, config: RopeConfig) -> jax.Array:
    """Moves rotated keys [B,K,S,H] on by distance int32 [B] positions: rotations add up, whatever stretched them.

    The same as rotating anew, up to rounding; a scale that is baked into the keys (YaRN) stays as it is.
    """
    angles = distance[:, None, None].astype(jnp.float32) * inverse_frequencies(config, keys.shape[-1])[None, None, :]
    return rotate(keys, jnp.cos(angles), jnp.sin(angles))
