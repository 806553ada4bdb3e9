"""A trained model as a Hugging Face checkpoint directory that any LLaMA loader opens."""

from pathlib import Path

from models.checkpoint import export_hf
from models.config import ModelConfig
from models.safetensors_io import write_json
from rapid_jax.training.tokenizer import save_tokenizer


def export_hugging_face(params: dict, config: ModelConfig, sentencepiece_model: bytes, directory: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors (bfloat16) and the tokenizer's files."""
    export_hf(params, config, directory, "bfloat16")
    save_tokenizer(sentencepiece_model, directory, config.max_position)
    generation = {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids), "do_sample": False}
    write_json(directory / "generation_config.json", generation)
