"""A loaded model with its matrices stored [in, out], and the way back (models.formats.transposed)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from models.formats import weight_format
from models.formats.transposed import transposed
from models.language_model import LanguageModel
from models.loading import lookup, weights_of
from models.params import abstract_params


def for_few_rows(model: LanguageModel) -> LanguageModel:
    """The model as products of a few rows are fastest: on a CPU, float32 matrices transposed; else as it is.

    Its arrays are taken over one by one, so that memory holds one matrix twice.
    """
    decoder = model.decoder
    if jax.default_backend() != "cpu" or np.dtype(decoder.dtype) != np.float32 or decoder.weights:
        return model
    form = weight_format("transposed")
    targets = abstract_params(model.config, np.dtype(decoder.dtype), decoder.mesh, form.name)
    params = jax.tree.map(lambda x: x, model.params)  # nested dicts of its own
    for weight in weights_of(model.config):
        *parents, name = weight.path
        module, target = lookup(params, tuple(parents)), lookup(targets, tuple(parents))
        if form.holds(target) and name != "bias":
            module |= form.keep(module.pop(name), target, weight.outputs)
    return dataclasses.replace(model, params=params, decoder=dataclasses.replace(decoder, weights=form.name))


def as_loaded(model: LanguageModel) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and array of each weight as models.load gives it, one by one; of narrow formats, as they are."""
    outputs = {weight.path: weight.outputs for weight in weights_of(model.config)}
    for keys, array in jax.tree_util.tree_leaves_with_path(model.params):
        *parents, name = (key.key for key in keys)
        if name == "kernel":
            name = "weight"
            array = transposed(array, array.ndim - outputs[*parents, name])
        yield (*parents, name), array
