"""Prefill by a model of the engine: contexts into frozen caches, questions into tails behind them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from models.cache import ContextCache, TailCache
from models.language_model import LanguageModel
from models.progress import ProgressCallback
from rapid_jax.config import EngineConfig
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.prefill import continued_tail, prefill_context, prefill_tail
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


@dataclasses.dataclass
class KeptTail:
    """What a model has read and said behind a document, kept for the next turn of a conversation about it.

    Attributes:
      tokens: ids behind the document; the tail holds keys and values of all of them.
      tail: whose first row counts; None before the first turn.
      reused: tokens that the last question did not have to read again.
    """

    tokens: Sequence[int] = ()
    tail: TailCache | None = None
    reused: int = 0

    def take(self, tokens: Sequence[int], tail: TailCache) -> None:
        """Keeps what a run has left."""
        self.tokens, self.tail = tuple(tokens), tail

    def shared_with(self, tokens: Sequence[int]) -> int:
        """Tokens that both begin with."""
        pairs = zip(self.tokens, tokens, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


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
    question_tokens: int = 0,
    kept: KeptTail | None = None,
) -> tuple[TailCache, float]:
    """Prefills the tails of a batch with its questions.

    Args:
      programs, model, config: as `prefill`.
      context: the questions are read behind it.
      questions: each row's token ids.
      keep_out: how many of the last tokens stay for the first decoding step.
      new_tokens: of an answer at most; they follow in the same tails.
      question_tokens: that the tails have room for at least.
      kept: of an earlier turn behind the same context, for a single question: what both begin with is not read again.

    Returns:
      (the tails, seconds without compilation).
    """
    decoder = model.decoder
    rows = [question[: len(question) - keep_out] for question in questions]
    capacity = token_bucket(max(question_tokens, *map(len, questions)) + new_tokens)
    known = 0 if kept is None else kept.shared_with(rows[0])

    def read() -> TailCache:
        tail = None
        if kept is not None and kept.tail is not None:
            tail = continued_tail(programs, kept.tail, known, capacity, decoder.mesh)
        return prefill_tail(
            programs,
            decoder,
            model.params,
            context,
            [row[known:] for row in rows],
            tail=tail,
            capacity=capacity,
            chunk=config.prefill_chunk,
            dtype=decoder.dtype,
            mesh=decoder.mesh,
        )

    if kept is not None:
        kept.reused = known
    return programs.timed(read)
