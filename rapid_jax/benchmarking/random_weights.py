"""An engine of a published size with random weights: the speed of a model that is not at hand."""

from __future__ import annotations

import time
from pathlib import Path

import jax

from models import registry, sharding
from models.decoder import Decoder
from models.language_model import LanguageModel
from models.params import init_params, resolve_dtype
from rapid_jax.config import EngineConfig
from rapid_jax.engine import Engine


def random_engine(config: EngineConfig, preset: str, seed: int = 0) -> Engine:
    """An engine whose target drafts for itself, with random weights made on the devices of the config's mesh.

    Args:
      config: dtype, mesh and all the rest; its target and drafter are not looked at.
      preset: a name in models.registry.PRESETS.
      seed: of the weights.

    Raises:
      ValueError: unknown preset, or a mesh that does not divide the model.
    """
    start = time.perf_counter()
    numbers = registry.preset(preset)
    dtype = resolve_dtype(config.dtype or None)
    mesh = sharding.mesh_of(config.mesh)
    params = jax.block_until_ready(init_params(numbers, seed=seed, dtype=dtype, mesh=mesh))
    model = LanguageModel(numbers, params, Decoder(numbers, dtype, mesh), Path())
    return Engine(config, model, model, mesh, time.perf_counter() - start)
