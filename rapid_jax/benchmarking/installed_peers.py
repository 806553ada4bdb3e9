"""Which other engines can run the target's checkpoint here, and why the others cannot."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util

import jax

from models.sources import open_source
from models.sources.base import WeightSource
from rapid_jax.benchmarking.peers import PeerEngine
from rapid_jax.engine.engine import QUESTION_RESERVE, Engine

_GOES_ON_FROM = (5, 24)  # version of transformers whose assisted generation goes on from a cache with the right tokens


@dataclasses.dataclass
class InstalledPeers:
    """What was found.

    Attributes:
      peers: engines that have loaded the checkpoint.
      versions: of their packages.
      missing: a line for each kind of rows that there are not.
    """

    peers: list[PeerEngine] = dataclasses.field(default_factory=list)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)


def installed_peers(engine: Engine, longest: int) -> InstalledPeers:
    """Loads the target's checkpoint into every other engine that is installed and reads it.

    Args:
      engine: ours.
      longest: tokens of the longest document.

    Raises:
      ValueError: an engine is there and cannot load the checkpoint.
    """
    found, source = InstalledPeers(), open_source(engine.target.path)
    for name, package, make in (
        ("transformers", "torch", lambda: _transformers(engine, source, found.missing)),
        ("llama.cpp", "llama-cpp-python", lambda: _llama_cpp(engine, source, longest)),
    ):
        try:
            found.peers.append(make())
            found.versions[package] = importlib.metadata.version(package)
        except _NoRows as why:
            found.missing.append(f"no rows of {name}: {why}")
    return found


class _NoRows(Exception):
    """Why an engine is not run."""


def _transformers(engine: Engine, source: WeightSource, missing: list[str]) -> PeerEngine:
    """Raises _NoRows; adds a line to `missing` for what this version or drafter leaves out."""
    backend = jax.default_backend()
    if importlib.util.find_spec("torch") is None:
        raise _NoRows("torch is not installed")
    if engine.session.mesh is not None:
        raise _NoRows("transformers is run on one device only")
    settings = source.for_transformers()
    if settings is None:
        raise _NoRows("transformers does not read this checkpoint")
    import torch

    if backend != "cpu" and not (backend == "gpu" and torch.cuda.is_available()):
        raise _NoRows(f"torch has no {backend}")
    from rapid_jax.benchmarking.transformers import Assistant, Transformers

    drafter, assistant = engine.drafter, None
    drafter_settings = open_source(drafter.path).for_transformers()
    version = importlib.metadata.version("transformers")
    lookup = tuple(map(int, version.split(".")[:2])) >= _GOES_ON_FROM
    if not lookup:
        missing.append(f"no rows hf-pld and hf-assisted: transformers {version} is too old, 5.24 is needed")
    elif drafter_settings is None:
        missing.append("no row hf-assisted: transformers does not read the drafter's checkpoint")
    elif drafter.config.vocab_size != engine.target.config.vocab_size:
        missing.append("no row hf-assisted: the drafter's embedding has another number of rows than the target's")
    else:
        assistant = Assistant(drafter_settings, drafter)
    device = "cuda" if backend == "gpu" else "cpu"
    return Transformers(settings, engine.target.decoder.dtype.name, device, assistant, lookup=lookup)


def _llama_cpp(engine: Engine, source: WeightSource, longest: int) -> PeerEngine:
    """Raises _NoRows."""
    path = source.for_llama_cpp()
    if path is None:
        raise _NoRows("the target is no GGUF file")
    if importlib.util.find_spec("llama_cpp") is None:
        raise _NoRows("llama-cpp-python is not installed")
    if jax.default_backend() != "cpu" or engine.session.mesh is not None:
        raise _NoRows("it is run beside a single CPU device only")
    from rapid_jax.benchmarking.llama_cpp import LlamaCpp

    return LlamaCpp(path, longest + QUESTION_RESERVE + engine.config.sampling.max_new_tokens)
