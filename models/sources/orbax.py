"""A directory that `models.checkpoint.save_orbax` wrote: an Orbax checkpoint beside Hugging Face's other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import orbax_io
from models.config import ModelConfig
from models.formats import format_of
from models.progress import ProgressCallback
from models.sources.base import Tensors, WeightSource
from models.sources.huggingface import HuggingFaceDirectory

FOLDER = "params"  # the Orbax checkpoint in its directory


class OrbaxDirectory(HuggingFaceDirectory):
    """Weights as our own tree of arrays, in whatever format they had when they were saved."""

    def tensors(self) -> Tensors:
        raise ValueError(f"{self.path} holds the weights of a decoder as an Orbax checkpoint, not as named tensors")

    def for_transformers(self) -> dict[str, Any] | None:
        return None

    def load_params(
        self,
        config: ModelConfig,
        *,
        dtype: Any = None,
        mesh: Any = None,
        quantize: str = "",
        progress: ProgressCallback | None = None,
    ) -> dict[str, Any]:
        """Reads the weights straight into their shards on any mesh; nothing is rounded here, and progress is not told.

        Raises:
          ValueError: the checkpoint is incomplete, or its weights are not those of `config`, or in another format.
        """
        from models.params import abstract_params, resolve_dtype

        path = self.path.absolute()
        targets = abstract_params(config, resolve_dtype(dtype), mesh, quantize)
        stored = orbax_io.metadata(path / FOLDER)
        _check_format(path, _stored_format(stored), quantize)
        shapes, wanted = _shapes(stored), _shapes(targets)
        for name in [*wanted, *shapes]:
            if shapes.get(name) != wanted.get(name):
                raise ValueError(
                    f"{path}: tensor {name} has shape {shapes.get(name)}, config.json asks for {wanted.get(name)}"
                )
        return orbax_io.restore(path / FOLDER, targets)


def claim(path: str | Path) -> WeightSource | None:
    """Takes a local directory with an Orbax checkpoint in it."""
    local = Path(path).expanduser()
    return OrbaxDirectory(local) if (local / FOLDER).is_dir() else None


def _check_format(path: Path, stored: str, asked: str) -> None:
    if stored and stored != asked:
        raise ValueError(f"{path} holds {stored} weights: ask for {stored} weights to load them")
    if asked and not stored:
        raise ValueError(f"{path} holds Orbax weights that are not {asked}: {asked} weights are made of safetensors")


def _stored_format(tree: Mapping[str, Any]) -> str:
    """The format of a tree's matrices: that of the first module in one of fewer bits, or ""."""
    below = [_stored_format(child) for child in tree.values() if isinstance(child, Mapping)]
    return format_of(tree).name or next(filter(None, below), "")


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(key.key for key in keys): tuple(leaf.shape) for keys, leaf in leaves}
