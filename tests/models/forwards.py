"""The ways to get all logits of a sequence: one forward, chunked prefill, and decoding through the caches."""

from __future__ import annotations

import functools

import jax
import numpy as np

from models import cache
from models.decoder import Decoder
from models.language_model import LanguageModel

CHUNK = 16


@functools.partial(jax.jit, static_argnames="decoder")
def _forward(decoder: Decoder, params, tokens, positions, context=None, tail=None):
    return decoder.apply({"params": params}, tokens, positions, context, tail, method="forward_logits")


_append = jax.jit(cache.append_chunk, donate_argnums=0)
_commit = jax.jit(cache.commit, donate_argnums=0)


def plain(model: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Logits [B,T,V] of one causal forward."""
    return np.asarray(model.logits(tokens))


def prefill(model: LanguageModel, tokens: np.ndarray) -> tuple[np.ndarray, cache.ContextCache]:
    """Logits [B,T,V] by chunks that need not divide T, and the filled context."""
    batch, length = tokens.shape
    capacity = -(-length // CHUNK) * CHUNK
    padded = np.zeros((batch, capacity), np.int32)
    padded[:, :length] = tokens
    context = cache.empty_context(model.config, batch, capacity, model.decoder.dtype)
    logits = []
    for start in range(0, capacity, CHUNK):
        positions = np.broadcast_to(np.arange(start, start + CHUNK, dtype=np.int32), (batch, CHUNK))
        part, block = _forward(model.decoder, model.params, padded[:, start : start + CHUNK], positions, context)
        lengths = np.full((batch,), min(start + CHUNK, length), np.int32)
        context = _append(context, block, np.int32(start), lengths)
        logits.append(np.asarray(part))
    return np.concatenate(logits, axis=1)[:, :length], context


def decode(model: LanguageModel, context: cache.ContextCache, tokens: np.ndarray, read: int) -> np.ndarray:
    """Logits [B,T-read,V] of what follows the context's `read` tokens, one token at a time through the tail.

    A context of one row is shared by all rows.
    """
    batch, length = tokens.shape
    tail = cache.empty_tail(model.config, batch, length - read, model.decoder.dtype)
    logits = []
    for index in range(read, length):
        positions = np.full((batch, 1), index, np.int32)
        part, block = _forward(model.decoder, model.params, tokens[:, index : index + 1], positions, context, tail)
        tail = _commit(tail, block, np.ones((batch,), np.int32))
        logits.append(np.asarray(part))
    return np.concatenate(logits, axis=1)
