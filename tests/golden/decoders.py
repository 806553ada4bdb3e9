"""Reads tests/golden/decoder_*.npz back as checkpoint directories."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def write_checkpoint(name: str, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes config.json and a bfloat16 model.safetensors; returns tokens [2,T] and transformers' logits [2,T,V]."""
    with np.load(HERE / f"decoder_{name}.npz") as golden:
        (directory / "config.json").write_bytes(golden["config"].tobytes())
        weights = {
            key.removeprefix("weight:"): golden[key].view(ml_dtypes.bfloat16)
            for key in golden.files
            if key.startswith("weight:")
        }
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return golden["tokens"], golden["logits"]
