"""Prefill by a model of the engine: contexts into frozen caches, questions into tails behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from models.cache import ContextCache, TailCache
from models.language_model import LanguageModel
from models.progress import ProgressCallback
from rapid_jax.config import EngineConfig
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.prefill import prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs


@dataclasses.dataclass(frozen=True)
class PrefilledContext:
    """What a model has read.

    Attributes:
      rows: token ids, of one document that all rows share or of one context a row.
      cache: frozen.
      seconds: the time that the prefill took, compilation excluded.
    """

    rows: Sequence[Sequence[int]]
    cache: ContextCache
    seconds: float

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each."""
        return tuple(map(len, self.rows))


def prefill(
    programs: Programs,
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    config: EngineConfig,
    progress: ProgressCallback | None = None,
) -> PrefilledContext:
    """Prefills a model with one context for all rows, or with one a row.

    Args:
      programs: what has been compiled.
      model: the target or the drafter.
      rows: token ids.
      config: chunk size, and how keys and values are kept.
      progress: called with (tokens read, tokens in all) after every chunk.
    """
    decoder = model.decoder
    cache, seconds = programs.timed(
        lambda: prefill_context(
            programs,
            decoder,
            model.params,
            rows,
            chunk=config.prefill_chunk,
            dtype=decoder.dtype,
            mesh=decoder.mesh,
            kv=config.kv,
            progress=progress,
        )
    )
    return PrefilledContext(rows, cache, seconds)


def prefill_questions(
    programs: Programs,
    model: LanguageModel,
    context: ContextCache,
    questions: Sequence[Sequence[int]],
    config: EngineConfig,
    *,
    keep_out: int,
    new_tokens: int,
) -> tuple[TailCache, float]:
    """Prefills the tails of a batch with its questions.

    Args:
      programs, model, config: as `prefill`.
      context: the questions are read behind it.
      questions: each row's token ids.
      keep_out: how many of the last tokens stay for the first decoding step.
      new_tokens: of an answer at most; they follow in the same tails.

    Returns:
      (the tails, seconds without compilation).
    """
    decoder = model.decoder
    return programs.timed(
        lambda: prefill_tail(
            programs,
            decoder,
            model.params,
            context,
            [question[: len(question) - keep_out] for question in questions],
            capacity=token_bucket(max(map(len, questions)) + new_tokens),
            chunk=config.prefill_chunk,
            dtype=decoder.dtype,
            mesh=decoder.mesh,
        )
    )
