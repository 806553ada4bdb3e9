"""What a model of an engine reads: contexts into frozen caches, questions into tails behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.cache import ContextCache, TailCache
from models.language_model import LanguageModel
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.prefill import Progress, prefill_context, prefill_tail
from rapid_jax.timing import timed

if TYPE_CHECKING:
    from rapid_jax.engine.engine import Engine


@dataclasses.dataclass(frozen=True)
class ReadContext:
    """What a model has read.

    Attributes:
      rows: token ids, of one document that all rows share or of one context a row.
      cache: frozen.
      seconds: that the prefill took, compilation excluded.
    """

    rows: Sequence[Sequence[int]]
    cache: ContextCache
    seconds: float

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each."""
        return tuple(map(len, self.rows))


def read_context(
    engine: Engine, model: LanguageModel, rows: Sequence[Sequence[int]], progress: Progress | None = None
) -> ReadContext:
    """Prefills a model with one context for all rows, or with one a row.

    Args:
      engine: whose programs, chunk size and kind of keys and values are used.
      model: the target or the drafter.
      rows: token ids.
      progress: called with (tokens read, tokens in all) after every chunk.
    """
    cache, seconds = timed(
        engine.programs,
        lambda: prefill_context(
            engine.programs,
            model.decoder,
            model.params,
            rows,
            chunk=engine.config.prefill_chunk,
            dtype=model.decoder.dtype,
            mesh=model.decoder.mesh,
            kv=engine.config.kv,
            progress=progress,
        ),
    )
    return ReadContext(rows, cache, seconds)


def read_questions(
    engine: Engine,
    model: LanguageModel,
    context: ContextCache,
    questions: Sequence[Sequence[int]],
    *,
    keep_out: int,
    room: int,
) -> TailCache:
    """Prefills the tails of a batch with its questions.

    Args:
      engine, model: as `read_context`.
      context: that they are read behind.
      questions: each row's token ids.
      keep_out: how many of the last tokens stay for the first decoding step.
      room: slots for an answer and a draft.
    """
    return prefill_tail(
        engine.programs,
        model.decoder,
        model.params,
        context,
        [question[:-keep_out] for question in questions],
        capacity=token_bucket(max(map(len, questions)) + room),
        chunk=engine.config.prefill_chunk,
        dtype=model.decoder.dtype,
        mesh=model.decoder.mesh,
    )
