"""The recipes of the embedded models: their architectures and their curricula."""

from dataclasses import dataclass, replace
from functools import partial

from models.config import ModelConfig, RopeConfig
from rapid_jax.training.data import Phase
from rapid_jax.training.loop import TrainingConfig

VOCAB_SIZE = 1664


@dataclass(frozen=True)
class Recipe:
    """How one model of the family is made; all of them share a tokenizer."""

    model: ModelConfig
    training: TrainingConfig


# 4 full-size KV heads make the KV cache dear beside the weights, as it is for real models over long documents. The
# large RoPE base leaves half of the rotary pairs nearly still over 128K positions, for lookups at any distance.
_DEFAULT = ModelConfig(
    family="llama",
    vocab_size=VOCAB_SIZE,
    width=192,
    ffn_width=448,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    max_position=131_072,
    rope=RopeConfig(theta=1e9),
    rms_norm_eps=1e-5,
    tie_embeddings=True,
    bos_id=1,
    eos_ids=(2,),
)

# Weights of fact, choice, dossier, whole.
_LOOKUPS, _FULL, _LONG = (0.55, 0.2, 0.15, 0.1), (0.45, 0.2, 0.15, 0.2), (0.4, 0.15, 0.2, 0.25)
_LAST = (0.35, 0.1, 0.2, 0.35)
_late = partial(Phase, document=0.75, weights=_LONG, reach=40_000, learning_rate=3e-4)
_last = partial(_late, weights=_LAST, turn_weight=1.0)

# Short rows until recall emerges, then longer documents and farther positions.
_FROM_NOTHING = (
    Phase(300, rows=16, tokens=128, document=0.55, weights=_LOOKUPS, reach=2048, learning_rate=6e-4),
    Phase(500, rows=4, tokens=512, document=0.6, weights=_FULL, reach=16_384, learning_rate=6e-4),
    Phase(800, rows=2, tokens=1024, document=0.75, weights=_LONG, reach=32_768, learning_rate=6e-4),
    _late(1100, rows=2, tokens=1024),
    _late(1150, rows=2, tokens=2048),
    _late(1400, rows=2, tokens=2048, turn_weight=1.0),
    _last(2250, rows=2, tokens=2048),
    _last(2680, rows=1, tokens=8192),
    _last(2730, rows=1, tokens=16_384),
)

# The others are made out of it (`resizing`). They draft from a few thousand tokens and need no long rows.
_RESIZED = TrainingConfig((_last(200, rows=2, tokens=2048),))

RECIPES = {
    "archivist": Recipe(_DEFAULT, TrainingConfig(_FROM_NOTHING)),
    "archivist-large": Recipe(replace(_DEFAULT, ffn_width=640, num_layers=6), _RESIZED),
    "archivist-small": Recipe(replace(_DEFAULT, ffn_width=256, num_layers=3), _RESIZED),
}
