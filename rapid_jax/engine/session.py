"""What the parts of an engine share: models, devices, programs, passages that were read, and what was learned."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import threading
from collections.abc import Callable, Hashable, Sequence

import jax
from jax.sharding import Mesh

from models.language_model import LanguageModel
from rapid_jax import __version__
from rapid_jax.config import EngineConfig, Method, embedded
from rapid_jax.decoding.programs import Programs
from rapid_jax.engine.contexts import PrefilledContext, prefill
from rapid_jax.hierarchy.setup import StaticDatabases, make_hierarchy
from rapid_jax.retrieval import Retriever, make_embedder
from rapid_jax.saving.checksums import weights_fingerprint
from rapid_jax.speculation import AcceptanceRecord, StepSeconds


@dataclasses.dataclass(eq=False)
class Session:
    """Models on their devices, and all that outlives a batch of questions.

    Attributes:
      config: see EngineConfig.
      target, drafter: language models; the same object in self-speculation, so that no weight is held twice, unless the
        drafter has devices of its own.
      mesh: the target's devices, or None for a single one.
      load_seconds: time spent in loading.
      programs: what has been compiled.
      passages: by a model's id, the passages that it has read last; methods with the same passages share them. They
        stay in the device's memory until others are read.
      together: by a model's id, the contexts of several documents that it has read last for one batch. They stay until
        others are read; engines with other drafters share them.
      step_costs: what the length rule has measured, by sizes.
      acceptance_seen: by method and what moves acceptance (length_rule.record_key), what answers have kept of their
        drafts so far.
      lock: held while the fields above change.
    """

    config: EngineConfig
    target: LanguageModel
    drafter: LanguageModel
    mesh: Mesh | None
    load_seconds: float
    programs: Programs = dataclasses.field(default_factory=Programs)
    passages: dict[int, PrefilledContext] = dataclasses.field(default_factory=dict)
    together: dict[int, PrefilledContext] = dataclasses.field(default_factory=dict)
    step_costs: dict[tuple[Hashable, ...], StepSeconds] = dataclasses.field(default_factory=dict)
    acceptance_seen: dict[Hashable, AcceptanceRecord] = dataclasses.field(default_factory=dict)
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    @functools.cached_property
    def retriever(self) -> Retriever:
        """Made when first needed, because a sentence encoder takes time to load."""
        retrieval = self.config.retrieval
        return Retriever(self.target.tokenizer.hf, make_embedder(retrieval), retrieval)

    @functools.cached_property
    def databases(self) -> StaticDatabases:
        """The n-gram databases that are only read; each is opened when a method first asks it."""
        config = self.config.hierarchy
        if not self.config.target:
            config = embedded.with_databases(config)
        return StaticDatabases(config, self.target, self.mesh)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells the target's weights apart from all others; read once, when a document is saved or opened."""
        return weights_fingerprint(self.target)

    @property
    def own_drafter(self) -> LanguageModel:
        """The model that drafts over the target's own cache: the target, or its copy with weights of fewer bits."""
        is_copy = self.drafter.path == self.target.path and not self.config.drafter_mesh
        return self.drafter if is_copy else self.target

    @property
    def drafter_mesh(self) -> Mesh | None:
        """The drafter's own devices; None where it shares the target's."""
        return self.drafter.decoder.mesh if self.config.drafter_mesh else None

    def require(self, methods: Sequence[Method]) -> None:
        """Loads what methods need beside the models, so that what is missing is found before anything slow.

        Raises:
          ValueError, FileNotFoundError: an encoder or a database that is not there, or not for this tokenizer.
        """
        if any(method.retrieves for method in methods):
            self.retriever  # noqa: B018  (made on first use)
        for method in methods:
            if method.looks_up:
                hierarchy = make_hierarchy(method.hierarchy(self.config.hierarchy), self.databases)
                self.databases.arrays(hierarchy)

    def prefill(self, model: LanguageModel, rows: Sequence[Sequence[int]], progress=None) -> PrefilledContext:
        """Reads one context for all rows of a batch, or one a row; see contexts.prefill."""
        return prefill(self.programs, model, rows, self.config, progress)

    def prefill_passages(self, model: LanguageModel, rows: Sequence[Sequence[int]]) -> PrefilledContext:
        """As `prefill`; what a model has read last is not read again, but its seconds count for every method.

        Methods that are compared ask for the same passages.
        """
        with self.lock:
            return _last(self.passages, model, rows, lambda: self.prefill(model, rows))

    def last_together(self, rows: Sequence[Sequence[int]], read: Callable[[], PrefilledContext]) -> PrefilledContext:
        """What `read` gives of several documents, a row each; not read again where the target has read them last."""
        with self.lock:
            return _last(self.together, self.target, rows, read)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, of the packages that results depend on, and the device's kind."""
        packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "transformers", "faiss-cpu")}
        device = jax.devices()[0]
        return {
            "rapid_jax": __version__,
            "python": platform.python_version(),
            **packages,
            "device": f"{device.platform}: {device.device_kind}",
        }


def _last(
    held: dict[int, PrefilledContext],
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    read: Callable[[], PrefilledContext],
) -> PrefilledContext:
    """What a model has read last if it is these rows; else they are read, and held in its place."""
    last = held.pop(id(model), None)
    if last is None or last.rows != rows:
        last = None  # its memory is free before the next cache is made
        last = read()
    held[id(model)] = last
    return last
