"""Step costs measured where the models are: what the length rule decides by before anything is drafted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
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
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.programs import Programs
from rapid_jax.speculation import GAMMAS, StepSeconds

_TRIALS = 5
_TAIL = 256  # tokens that a tail of a usual question and answer holds


def measure_step_seconds(
    programs: Programs,
    target: LanguageModel,
    context: ContextCache,
    drafter: LanguageModel,
    passages: int,
    rows: int,
    *,
    chunk: int,
    longest: int = max(GAMMAS),
) -> StepSeconds:
    """Times forwards of the target over its context and of the drafter over passages of a given length.

    Three forwards, the best of five each: the target's over one token and over longest + 1, the drafter's over one.
    Keys and values of passages and tails are zeros, which take as long to read.

    Args:
      programs: compiles, so that the same sizes are compiled once.
      target, context: the long-context model and what it has read.
      drafter: may be the target.
      passages: tokens that the drafter reads.
      rows: of the batch.
      chunk: tokens of a prefill chunk, which decides the size of the drafter's cache.
      longest: drafted tokens of the wide forward; what lies between is taken as linear.
    """
    own = empty_context(
        drafter.config, rows, context_bucket(passages, chunk), drafter.decoder.dtype, drafter.decoder.mesh
    )
    filled = -(-passages // own.filled.shape[1])
    full = dataclasses.replace(
        own, length=jnp.full_like(own.length, passages), filled=jnp.full_like(own.filled, filled)
    )
    plain = _seconds(programs, target, context, rows, 1)
    wide = _seconds(programs, target, context, rows, longest + 1)
    draft = _seconds(programs, drafter, full, rows, 1)
    return StepSeconds(plain, draft, max(wide - plain, 0.0) / longest)


def _seconds(programs: Programs, model: LanguageModel, context: ContextCache, rows: int, tokens: int) -> float:
    mesh, config = model.decoder.mesh, model.config
    tail = empty_tail(config, rows, token_bucket(_TAIL + tokens), model.decoder.dtype, mesh)
    tail = TailCache(tail.k, tail.v, jnp.full_like(tail.length, _TAIL))
    place = None if mesh is None else NamedSharding(mesh, P())
    args = (model.params, context, tail, hosts.put(np.zeros((rows, tokens), np.int32), place))
    run = programs.get(_forward, (model.decoder,), args)
    jax.block_until_ready(run(*args))
    best = min(_timed(run, args) for _ in range(_TRIALS))
    return hosts.from_main(lambda: best)  # clocks differ, and all hosts must decide alike


def _timed(run: Callable, args: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def _forward(
    decoder: Decoder, params: dict, context: ContextCache, tail: TailCache, tokens: jax.Array
) -> tuple[jax.Array, Any]:
    """The most likely token behind each of [B,T], and the keys and values that a step would commit."""
    positions = next_positions(tokens.shape[1], context, tail)
    hidden, block = hidden_states(decoder, params, tokens, positions, context, tail)
    return jnp.argmax(output_logits(decoder, params, hidden), axis=-1), block
