"""A Hugging Face directory: config.json, a tokenizer's files and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import registry
from models.config import ModelConfig
from models.json_file import read_json
from models.safetensors_io import SafetensorsDirectory
from models.sources.base import Tensors, WeightSource


class HuggingFaceDirectory(WeightSource):
    """A directory as transformers writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_config(self) -> ModelConfig:
        file = self.path / "config.json"
        config = read_json(file)
        try:
            return registry.config_from_hf(config)
        except ValueError as error:
            raise ValueError(str(error).replace("config.json", str(file), 1)) from None

    def tokenizer_files(self) -> Path:
        return self.path

    def tensors(self) -> Tensors:
        return SafetensorsDirectory(self.path)

    def for_transformers(self) -> dict[str, Any] | None:
        return {"pretrained_model_name_or_path": str(self.path)}


def claim(path: Path) -> WeightSource | None:
    """Takes every directory; raises ValueError for a file."""
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give the directory that holds config.json and the weights, or a GGUF file")
    return HuggingFaceDirectory(path)
