"""What a decoder is: the numbers of a checkpoint's config.json that change its result."""

from __future__ import annotations

import dataclasses

from models.fields import boolean, integer, number, shown

FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_KINDS = ("default", "linear", "llama3", "yarn")
MOST_POSITIONS = 2**24  # float32, in which rotary angles are computed, holds no odd number beyond
MOST_ID = 2**31 - 1  # tokens are int32
MOST_PARAMETERS = 10**13

# What a size may be at most: beyond every published model, and small enough that nothing overflows or hangs.
SIZE_LIMITS = {
    "vocab_size": 2**24,
    "width": 2**17,
    "ffn_width": 2**20,
    "num_layers": 512,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 1024,
    "max_position": MOST_POSITIONS,
}

# Least and most of every number that stretches rotary positions.
ROPE_RANGES = {
    "theta": (1.0, 1e15),
    "factor": (1.0, 1e5),
    "low_freq_factor": (1e-3, 1e5),
    "high_freq_factor": (1e-3, 1e5),
    "beta_fast": (1e-3, 1e5),
    "beta_slow": (1e-3, 1e5),
    "attention_factor": (1e-3, 1e3),
}
EPS_RANGE = (1e-30, 1.0)  # float32 holds the least, and it keeps a norm of zeros finite


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

    Raises:
      ValueError: an unknown kind, a number out of its range (ROPE_RANGES), or a band whose upper end is not above its
        lower end.
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

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise ValueError(f"rope type {shown(self.kind)} is not supported; known: {', '.join(ROPE_KINDS)}")
        where = f"{self.kind} rope:"
        for name, (least, most) in ROPE_RANGES.items():
            number(getattr(self, name), f"{where} {name}", least, most)
        if self.theta == 1:
            raise ValueError(f"{where} theta must be above 1 (rope_theta in config.json), got {self.theta}")
        stretches = self.kind in ("llama3", "yarn")
        integer(self.original_max_position, f"{where} original_max_position", MOST_POSITIONS, least=int(stretches))
        boolean(self.truncate, f"{where} truncate")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"{where} high_freq_factor {self.high_freq_factor} must be above low_freq_factor {self.low_freq_factor}"
            )
        if self.beta_fast < self.beta_slow:
            raise ValueError(f"{where} beta_fast {self.beta_fast} must not lie below beta_slow {self.beta_slow}")


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
      max_position: the context length in tokens that the checkpoint allows, once rope has stretched it.
      rope: rotary position embedding.
      rms_norm_eps: epsilon of every RMSNorm.
      tie_embeddings: the output projection is the embedding.
      qkv_bias, output_bias, mlp_bias: which projections carry a bias.
      qk_norm: RMSNorm over head_dim on queries and keys before RoPE (Qwen3).
      bos_id: beginning-of-sequence id, or None.
      eos_ids: ids that end a sequence.

    Raises:
      ValueError: a field of another type, out of range (SIZE_LIMITS), or at odds with another one.
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

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {shown(self.family)} is not supported; known: {', '.join(FAMILIES)}")
        for name, most in SIZE_LIMITS.items():
            integer(getattr(self, name), name, most)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        if not isinstance(self.rope, RopeConfig):
            raise ValueError(f"rope must be a RopeConfig, got {shown(self.rope)}")
        number(self.rms_norm_eps, "rms_norm_eps", *EPS_RANGE)
        for name in ("tie_embeddings", "qkv_bias", "output_bias", "mlp_bias", "qk_norm"):
            boolean(getattr(self, name), name)
        if not isinstance(self.eos_ids, tuple):
            raise ValueError(f"eos_ids must be a tuple of ids, got {shown(self.eos_ids)}")
        for name, ids in (("bos_id", () if self.bos_id is None else (self.bos_id,)), ("eos_ids", self.eos_ids)):
            for value in ids:
                integer(value, name, MOST_ID, least=0)
        if self.num_parameters > MOST_PARAMETERS:
            raise ValueError(
                f"a model of these sizes has {self.num_parameters:.1e} parameters; "
                f"at most {MOST_PARAMETERS:.0e} are supported"
            )

    @property
    def num_parameters(self) -> int:
        """Weights of the matrices and embeddings; norms and biases, which are few, are not counted."""
        attention = 2 * self.width * self.head_dim * (self.num_heads + self.num_kv_heads)
        embeddings = (1 if self.tie_embeddings else 2) * self.vocab_size * self.width
        return self.num_layers * (attention + 3 * self.width * self.ffn_width) + embeddings
