"""Loads what a session holds: checkpoints are checked first, then read onto their devices."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

import models
from models import sharding
from models.chat import check_arguments
from models.language_model import LanguageModel
from models.progress import ProgressCallback
from models.sources import open_source
from models.tokenizer import load_tokenizer, same_vocabulary
from models.transposition import for_few_rows
from models.vocabulary import check_vocabulary
from rapid_jax.config import EngineConfig, embedded
from rapid_jax.engine.generation_config import with_checkpoint_sampling
from rapid_jax.engine.session import Session


def load_session(config: EngineConfig, progress: ProgressCallback | None = None) -> Session:
    """The models that a config names.

    Args:
      config: see EngineConfig.
      progress: called with (bytes read, bytes in all).

    Raises:
      ValueError, FileNotFoundError: as `Engine.load`.
    """
    start = time.perf_counter()
    config = with_checkpoint_sampling(config)
    mesh = sharding.mesh_of(config.mesh)
    paths = [embedded.checkpoint(config.target), embedded.checkpoint(config.drafter or config.target)]
    check_checkpoints(paths if paths[0] != paths[1] else paths[:1], config)
    model = _load(paths[0], config, mesh, config.weights, progress)
    drafter = _load_drafter(config, paths[1], model if paths[0] == paths[1] else None, mesh, progress)
    return Session(config, model, drafter, mesh, time.perf_counter() - start)


def with_drafter(session: Session, drafter: str) -> Session:
    """A session with the same target, in the same memory, and the same programs, but another drafter.

    Args:
      session: whose target is kept.
      drafter: directory or hub name; "" is self-speculation.

    Raises:
      ValueError, FileNotFoundError: as `Engine.load`.
    """
    start = time.perf_counter()
    config = dataclasses.replace(session.config, drafter=drafter)
    path = str(session.target.path)
    own: LanguageModel | None = session.target
    if drafter and drafter != config.target:
        check_checkpoints([path, drafter], config)
        path, own = embedded.checkpoint(drafter), None
    model = _load_drafter(config, path, own, session.mesh)
    seconds = session.load_seconds + time.perf_counter() - start
    programs, together = session.programs, session.together
    return Session(config, session.target, model, session.mesh, seconds, programs, together=together)


def _load(
    path: Any, config: EngineConfig, mesh: Mesh | None, weights: str, progress: ProgressCallback | None = None
) -> LanguageModel:
    loaded = models.load(
        path,
        dtype=config.dtype or None,
        mesh=mesh,
        quantize=weights,
        backend=config.attention or None,
        progress=progress,
    )
    return for_few_rows(loaded)


def _load_drafter(
    config: EngineConfig,
    path: Any,
    same: LanguageModel | None,
    mesh: Mesh | None,
    progress: ProgressCallback | None = None,
) -> LanguageModel:
    """The drafter on its devices; `same` is the target where it drafts for itself, loaded again only if it must."""
    weights = config.drafter_weights or config.weights
    if config.drafter_mesh:
        mesh, same = make_drafter_mesh(config), None
    elif same is not None and weights == config.weights:
        return same
    model = _load(path, config, mesh, weights, progress)
    return model if same is None else model.with_params(_sharing(model.params, same.params))


def _sharing(params: dict, target: dict) -> dict:
    """A copy's weights, with the target's own arrays where both are alike: the embedding, the norms and biases."""

    def one(name: str, own: Any) -> Any:
        if isinstance(own, dict):
            return _sharing(own, target[name])
        theirs = target.get(name)  # scales of another format have another shape
        return theirs if theirs is not None and (theirs.dtype, theirs.shape) == (own.dtype, own.shape) else own

    return {name: one(name, own) for name, own in params.items()}


def make_drafter_mesh(config: EngineConfig) -> Mesh:
    """The drafter's own devices, those behind the target's.

    Raises:
      ValueError: there are too few.
    """
    used = math.prod(config.mesh)
    try:
        return sharding.make_mesh(config.drafter_mesh, jax.devices()[used:])
    except ValueError as error:
        raise ValueError(f"drafter_mesh, of the devices behind the target's {used}: {error}") from None


def check_checkpoints(paths: Sequence[str], config: EngineConfig) -> None:
    """Finds what is wrong with the target's and the drafters' checkpoints before any weights are read.

    Args:
      paths: directories or hub names, the target's first.
      config: whose meshes they are split over.

    Raises:
      ValueError, FileNotFoundError: as `Engine.load`.
    """
    devices = sharding.mesh_of(config.mesh)
    own = make_drafter_mesh(config) if config.drafter_mesh else devices
    sources = [open_source(embedded.checkpoint(path)) for path in paths]
    numbers = [source.read_config() for source in sources]
    for model, split in [(numbers[0], devices), *((model, own) for model in numbers[1:] or numbers)]:
        if split is not None:
            sharding.check_divides(model, split)
    target, *drafters = tokenizers = [load_tokenizer(source.path) for source in sources]
    for tokenizer, source, config_of_it in zip(tokenizers, sources, numbers, strict=True):
        check_vocabulary(tokenizer, config_of_it, source.path)
    check_arguments(target.chat_template, config.chat.variables())
    for drafter in drafters:
        reason = same_vocabulary(target, drafter)
        if reason:
            raise ValueError(f"target and drafter need the same vocabulary: {reason}")
