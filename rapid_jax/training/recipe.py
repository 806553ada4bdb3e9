"""The recipe of the embedded model: its architecture and its curriculum."""

from functools import partial

from models.config import ModelConfig, RopeConfig
from rapid_jax.training.data import Phase
from rapid_jax.training.loop import TrainingConfig

VOCAB_SIZE = 1664


def archivist_model() -> ModelConfig:
    """2.1M parameters; 4 full-size KV heads in each of 4 layers make its KV cache dear beside its weights.

    The large RoPE base leaves half of the rotary pairs nearly still over 128K positions, for lookups at any distance.
    """
    return ModelConfig(
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


def archivist_training() -> TrainingConfig:
    """Short rows until recall emerges, then longer documents and farther positions."""
    lookups, full, long = (0.7, 0.05, 0.2, 0.05), (0.6, 0.1, 0.2, 0.1), (0.5, 0.15, 0.2, 0.15)
    late = partial(Phase, document=0.75, weights=long, reach=40_000, learning_rate=3e-4)
    return TrainingConfig(
        phases=(
            Phase(300, rows=16, tokens=128, document=0.55, weights=lookups, reach=2048, learning_rate=6e-4),
            Phase(500, rows=4, tokens=512, document=0.6, weights=full, reach=16_384, learning_rate=6e-4),
            Phase(800, rows=2, tokens=1024, document=0.75, weights=long, reach=32_768, learning_rate=6e-4),
            late(1100, rows=2, tokens=1024),
            late(1150, rows=2, tokens=2048),
            late(1400, rows=2, tokens=2048, turn_weight=1.0),
            late(1560, rows=1, tokens=8192, turn_weight=1.0),
        ),
    )
