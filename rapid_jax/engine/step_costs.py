"""Step costs measured where the models are: what the length rule decides by before anything is drafted."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache, TailCache, empty_context, empty_tail
from models.decoder import Decoder, hidden_states, output_logits
from models.language_model import LanguageModel
from rapid_jax.decoding.buckets import context_bucket, token_bucket
from rapid_jax.decoding.prefill import next_positions, rounded
from rapid_jax.decoding.programs import Programs
from rapid_jax.speculation import GAMMAS, StepSeconds

_TRIALS = 5
_TAIL = 256  # tokens that a tail of a usual question and answer holds


def measure_step_seconds(
    programs: Programs,
    target: LanguageModel,
    context: ContextCache,
    drafter: LanguageModel,
    read: ContextCache,
    rows: int,
    *,
    longest: int = max(GAMMAS),
) -> tuple[StepSeconds, float]:
    """Times forwards of the target over its context and of the drafter over what it reads.

    Three forwards, the best of five each: the target's over one token and over longest + 1, the drafter's over one.
    Their programs are compiled at the same time. Keys and values of tails are zeros, which take as long to read.

    Args:
      programs: compiles, so that the same sizes are compiled once.
      target, context: the long-context model and what it has read.
      drafter, read: the drafting model, which may be the target, and what it reads.
      rows: of the batch.
      longest: drafted tokens of the wide forward; what lies between is taken as linear.

    Returns:
      (the costs, the seconds that the trials took).
    """
    models = (target, target, drafter)
    args = [  # made in this thread: only compiling is left to others, so that several devices start alike
        _arguments(target, context, rows, 1),
        _arguments(target, context, rows, longest + 1),
        _arguments(drafter, read, rows, 1),
    ]
    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        compiled = pool.map(lambda model, own: programs.get(_forward, (model.decoder,), own), models, args)
        runs = [functools.partial(program, *own) for program, own in zip(compiled, args, strict=True)]
    with programs.spending():  # programs of int4 compile in their first call on a CPU
        for run in runs:
            jax.block_until_ready(run())
    start = time.perf_counter()
    trials = [[_timed(run) for run in runs] for _ in range(_TRIALS)]  # in turns: what disturbs one disturbs all
    plain, wide, draft = hosts.from_main(lambda: np.min(trials, axis=0).tolist())  # all hosts must decide alike
    return StepSeconds(plain, draft, max(wide - plain, 0.0) / longest), time.perf_counter() - start


def blank_context(
    programs: Programs, model: LanguageModel, rows: int, tokens: int, *, chunk: int, kv: str = ""
) -> ContextCache:
    """A context of zeros, as large as if a model had read so many tokens a row in such chunks; kv is its format."""
    decoder = model.decoder
    blank = empty_context(model.config, rows, context_bucket(tokens, chunk), decoder.dtype, decoder.mesh)
    return as_read(rounded(programs, blank, kv), [tokens] * rows)


def as_read(context: ContextCache, tokens: Sequence[int]) -> ContextCache:
    """A context whose slots are in use as if so many tokens of each of its documents had been read."""
    length, filled = (np.zeros(x.shape, np.int32) for x in (context.length, context.filled))
    length[:] = tokens
    filled[:] = -(-length // filled.shape[1])[:, None]
    put = (hosts.put(new, old.sharding) for new, old in ((length, context.length), (filled, context.filled)))
    return dataclasses.replace(context, **dict(zip(("length", "filled"), put, strict=True)))


def _arguments(model: LanguageModel, context: ContextCache, rows: int, tokens: int) -> tuple[Any, ...]:
    """Of `_forward`, behind the decoder: so many tokens of each row behind a context and a tail of zeros."""
    mesh, config = model.decoder.mesh, model.config
    tail = empty_tail(config, rows, token_bucket(_TAIL + tokens), model.decoder.dtype, mesh)
    tail = TailCache(tail.k, tail.v, jnp.full_like(tail.length, _TAIL))
    place = None if mesh is None else NamedSharding(mesh, P())
    return model.params, context, tail, hosts.put(np.zeros((rows, tokens), np.int32), place)


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def _forward(
    decoder: Decoder, params: dict, context: ContextCache, tail: TailCache, tokens: jax.Array
) -> tuple[jax.Array, Any]:
    """The most likely token behind each of [B,T], and the keys and values that a step would commit."""
    positions = next_positions(tokens.shape[1], context, tail)
    hidden, block = hidden_states(decoder, params, tokens, positions, context, tail)
    return jnp.argmax(output_logits(decoder, params, hidden), axis=-1), block
