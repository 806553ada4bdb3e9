"""Writes arrays to files, through to the disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rapid_jax.evaluation.writing import naming


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file and waits until it is on disk.

    Raises:
      OSError: it cannot be written, as on a full disk; names the file.
    """
    with naming(path), path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
