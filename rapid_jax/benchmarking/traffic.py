"""The bytes that a decoding step has to read, by arithmetic: weights once a forward, keys and values once a forward.

Not counted: activations, the tokens in flight, writes, and slots that a cache holds but does not use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from models import memory
from models.formats.base import item_bytes
from models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward of a batch of B rows.

    Attributes:
      model: who runs.
      contexts: tokens of each context that it reads: one number where all rows share a document, else B.
      tails: tokens of each row's tail, the mean over a run; B numbers.
      times: how often it runs in a step, the mean.
      kv: format of the contexts (models.formats), "" for the model's dtype.
    """

    model: LanguageModel
    contexts: Sequence[int]
    tails: Sequence[float]
    times: float = 1
    kv: str = ""


def step_bytes(forwards: Sequence[Forward]) -> int:
    """Bytes that a step of these forwards has to read, of all devices together.

    Devices along the mesh's data axis each read the weights, and a context that all rows share.
    """
    total = 0.0
    for forward in forwards:
        mesh = forward.model.decoder.mesh
        copies = 1 if mesh is None else mesh.shape["data"]
        shared = len(forward.contexts) < len(forward.tails)
        contexts = sum(forward.contexts) * (copies if shared else 1) * kv_bytes_per_token(forward.model, forward.kv)
        tails = sum(forward.tails) * kv_bytes_per_token(forward.model)
        total += forward.times * (copies * weight_bytes(forward.model) + contexts + tails)
    return round(total)


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of the weights that one forward reads; of an input embedding that is not tied it reads a few rows only."""
    read = dict(model.params) if model.config.tie_embeddings else {**model.params, "embed": {}}
    packed = jax.default_backend() != "cpu"
    return round(sum(x.size * item_bytes(x.dtype) if packed else x.nbytes for x in jax.tree.leaves(read)))


def kv_bytes_per_token(model: LanguageModel, kv: str = "") -> int:
    """Bytes of one token's keys and values in all layers, in a format with its scales."""
    return memory.kv_bytes_per_token(model.config, model.decoder.dtype, kv)


def mean_tails(questions: Sequence[Sequence[int]], new_tokens: int) -> list[float]:
    """Tokens in each row's tail, the mean over a run that starts behind the question and adds new_tokens."""
    return [len(question) + new_tokens / 2 for question in questions]
