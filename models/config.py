"""What a decoder is: the numbers of a checkpoint's config.json that change its result."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base frequency and how it is stretched to longer contexts.

    Attributes:
      kind: "default", "linear", "llama3" or "yarn".
      theta: base of the geometric series of frequencies.
      factor: by how much the context is stretched (1 for "default").
      original_max_position: context length in tokens before stretching ("llama3", "yarn").
      low_freq_factor, high_freq_factor: the band that "llama3" interpolates over.
      beta_fast, beta_slow: the band, in rotations, that "yarn" interpolates over.
      attention_factor: scale of cos and sin ("yarn"); 1 otherwise.
      truncate: whether "yarn" rounds its band to whole dimensions.
    """

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only language model of the LLaMA or Qwen family.

    Attributes:
      family: "llama", "qwen2" or "qwen3".
      vocab_size: V.
      width: D, the residual stream.
      ffn_width: F, the gated MLP's inner width.
      num_layers: L.
      num_heads: N, query heads.
      num_kv_heads: K, key and value heads; divides N.
      head_dim: H.
      max_position: the context length in tokens that the checkpoint declares.
      rope: rotary position embedding.
      rms_norm_eps: epsilon of every RMSNorm.
      tie_embeddings: the output projection is the embedding.
      qkv_bias, output_bias, mlp_bias: which projections carry a bias.
      qk_norm: RMSNorm over head_dim on queries and keys before RoPE (Qwen3).
      bos_id: beginning-of-sequence id, or None.
      eos_ids: ids that end a sequence.
    """

    family: str
    vocab_size: int
    width: int
    ffn_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rope: RopeConfig = RopeConfig()
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
