"""A larger or smaller model out of a trained one of the same width, heads and vocabulary.

What is added says nothing at first (its last projection is zero), so that a grown model starts as the one it came from
(function-preserving growth: Net2Net, arXiv 1511.05641); a smaller one keeps the first layers and hidden units and must
be trained until it has recovered.
"""

import dataclasses

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.params import Params


def resized(params: Params, source: ModelConfig, target: ModelConfig, fresh: Params) -> Params:
    """Parameters of `target` out of those of `source`.

    Args:
      params: of the trained model, float32.
      source, target: may differ in num_layers and ffn_width alone.
      fresh: initial parameters of `target`, for what is added.

    Raises:
      ValueError: the models differ in something else.
    """
    if dataclasses.replace(source, num_layers=target.num_layers, ffn_width=target.ffn_width) != target:
        raise ValueError("only a model that differs in layers and ffn_width alone can be resized to another")
    result = {**fresh, "embed": params["embed"], "final_norm": params["final_norm"]}
    for index in range(target.num_layers):
        name = f"layers_{index}"
        result[name] = _kept(params[name], fresh[name]) if name in params else _silent(fresh[name])
    return result


def _kept(trained: Params, fresh: Params) -> Params:
    """A trained layer with as many hidden units as `fresh` has."""
    units = trained["mlp"]["down_proj"]["weight"].shape[1]
    mlp = {}
    for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        new = fresh["mlp"][name]["weight"]
        own, size = trained["mlp"][name]["weight"], new.shape[axis]
        added = jax.lax.slice_in_dim(new, min(units, size), size, axis=axis)
        added = jnp.zeros_like(added) if name == "down_proj" else added
        kept = jax.lax.slice_in_dim(own, 0, min(units, size), axis=axis)
        mlp[name] = {"weight": jnp.concatenate([kept, added], axis=axis)}
    return {**trained, "mlp": mlp}


def _silent(layer: Params) -> Params:
    """A layer that adds nothing to the residual stream."""

    def quiet(part: Params, name: str) -> Params:
        return {**part, name: jax.tree.map(jnp.zeros_like, part[name])}

    return {**layer, "attn": quiet(layer["attn"], "o_proj"), "mlp": quiet(layer["mlp"], "down_proj")}
