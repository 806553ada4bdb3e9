"""A loaded model with its matrices stored [in, out] (models.formats.transposed); models.loading has the way back."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from models.formats import format_of, weight_format
from models.language_model import LanguageModel
from models.loading import lookup, weights_of


def for_few_rows(model: LanguageModel) -> LanguageModel:
    """The model as products of a few rows are fastest: on a CPU, float32 matrices transposed; else as it is.

    Those are all matrices that products read: not an embedding that is no output projection, nor narrow ones. Arrays
    are taken over one by one, so that memory holds one matrix twice.
    """
    decoder, config = model.decoder, model.config
    if jax.default_backend() != "cpu" or np.dtype(decoder.dtype) != np.float32:
        return model
    form, params = weight_format("transposed"), jax.tree.map(lambda x: x, model.params)  # nested dicts of its own
    for weight in weights_of(config):
        *parents, name = weight.path
        module = lookup(params, tuple(parents))
        read = config.tie_embeddings or parents != ["embed"]
        if read and name == "weight" and len(weight.axes) > 1 and not format_of(module).name:
            last_first = dataclasses.replace(
                weight,
                axes=weight.axes[weight.outputs :] + weight.axes[: weight.outputs],
                shape=weight.shape[weight.outputs :] + weight.shape[: weight.outputs],
            )
            target = last_first.placed(decoder.mesh, np.dtype(decoder.dtype))
            module |= form.keep(module.pop(name), {"kernel": target}, weight.outputs)
    whole = decoder if decoder.weights else dataclasses.replace(decoder, weights=form.name)
    return model.with_params(params, whole)
