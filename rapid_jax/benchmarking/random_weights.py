"""An engine of a published size with random weights: the speed of a model that is not at hand."""

from __future__ import annotations

import time
from pathlib import Path

import jax
from jax.sharding import Mesh

from models import registry, sharding
from models.decoder import Decoder
from models.language_model import LanguageModel
from models.params import init_params, resolve_dtype
from models.transposition import for_few_rows
from rapid_jax.config import EngineConfig
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.loading import make_drafter_mesh
from rapid_jax.engine.session import Session


def random_engine(config: EngineConfig, preset: str, seed: int = 0) -> Engine:
    """An engine whose target drafts for itself, with random weights made on the devices of the config's meshes.

    Args:
      config: dtype, weights, mesh and all the rest; its target and drafter are not looked at.
      preset: a name in models.registry.PRESETS.
      seed: of the weights.

    Raises:
      ValueError: unknown preset, or a mesh that does not divide the model.
    """
    start = time.perf_counter()
    numbers = registry.preset(preset)
    dtype = resolve_dtype(config.dtype or None)

    def make(mesh: Mesh | None, weights: str) -> LanguageModel:
        params = jax.block_until_ready(init_params(numbers, seed=seed, dtype=dtype, mesh=mesh, weights=weights))
        decoder = Decoder(numbers, dtype, mesh, config.attention or None, weights)
        return for_few_rows(LanguageModel(numbers, params, decoder, Path()))

    mesh = sharding.mesh_of(config.mesh)
    target = drafter = make(mesh, config.weights)
    weights = config.drafter_weights or config.weights
    if config.drafter_mesh or weights != config.weights:
        drafter = make(make_drafter_mesh(config) if config.drafter_mesh else mesh, weights)
    return Engine(Session(config, target, drafter, mesh, time.perf_counter() - start))
