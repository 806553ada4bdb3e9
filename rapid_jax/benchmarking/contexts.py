"""Contexts in the models' caches, prefilled once and timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from models.cache import ContextCache
from models.language_model import LanguageModel
from rapid_jax.decoding.prefill import Progress, prefill_context
from rapid_jax.engine import Engine
from rapid_jax.timing import timed


@dataclasses.dataclass(frozen=True)
class ReadContext:
    """What a model has read.

    Attributes:
      cache: frozen; of one document that all rows share, or of one context a row.
      lengths: tokens of each.
      seconds: that the prefill took, compilation excluded.
    """

    cache: ContextCache
    lengths: tuple[int, ...]
    seconds: float


def read_context(
    engine: Engine, model: LanguageModel, contexts: Sequence[Sequence[int]], progress: Progress | None = None
) -> ReadContext:
    """Prefills a model with one context for all rows, or with one a row.

    Args:
      engine: whose programs and chunk size are used.
      model: the target or the drafter.
      contexts: token ids.
      progress: called with (tokens read, tokens in all) after every chunk.
    """
    cache, seconds = timed(
        engine.programs,
        lambda: prefill_context(
            engine.programs,
            model.decoder,
            model.params,
            contexts,
            chunk=engine.config.prefill_chunk,
            dtype=model.decoder.dtype,
            mesh=model.decoder.mesh,
            kv=engine.config.kv,
            progress=progress,
        ),
    )
    return ReadContext(cache, tuple(map(len, contexts)), seconds)
