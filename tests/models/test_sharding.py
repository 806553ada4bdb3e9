"""Mesh axes, the rules from logical axes to them, and one-line refusals."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from models import init_params, sharding
from models.config import ModelConfig
from models.params import _init, logical_params

CONFIG = ModelConfig(
    family="llama",
    vocab_size=16,
    width=8,
    ffn_width=24,
    num_layers=1,
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    max_position=64,
)


def test_mesh_has_the_three_axes_in_order():
    """Rules name axes; Explicit axis types (the default of jax.make_mesh) would change what jit means."""
    mesh = sharding.make_mesh((2, 1, 4))
    assert mesh.axis_names == ("data", "context", "model") and mesh.devices.shape == (2, 1, 4)
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_mesh_may_use_fewer_devices_than_there_are():
    """One of two chips is a legitimate choice."""
    assert sharding.make_mesh((1, 1, 2)).size == 2
    assert list(sharding.make_mesh((1, 1, 2), jax.devices()[4:]).devices.flat) == jax.devices()[4:6]


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 2), "three positive numbers"),
        ((0, 1, 1), "three positive numbers"),
        ((1, 1, -2), "three positive numbers"),
        ((1, 1, 2.0), "three positive numbers"),
        ((4, 2, 2), r"mesh \(4, 2, 2\) needs 16 devices, there are 8"),
    ],
)
def test_a_mesh_that_cannot_be_made_is_refused_in_one_line(shape, message):
    """Before a model is loaded, and with the number that would do."""
    with pytest.raises(ValueError, match=message) as error:
        sharding.make_mesh(shape)
    assert "\n" not in str(error.value)


def test_rules_map_logical_axes():
    """The embedding's width is split over context, so that decoding reads each weight once over all devices."""
    assert sharding.spec(("vocab", "embed")) == P("model", "context")
    assert sharding.spec(("heads", "head_dim", "embed")) == P("model", None, "context")
    assert sharding.spec((None, "ffn")) == P(None, "model")


def test_two_dimensions_on_one_mesh_axis_are_refused():
    """Such a weight could not be placed; the names in the message find the declaration."""
    with pytest.raises(ValueError, match="claim a mesh axis twice.*model.*model"):
        sharding.spec(("heads", "ffn"))


def test_an_axis_without_a_rule_is_refused():
    """A typing error in a declaration must not replicate the weight silently."""
    with pytest.raises(ValueError, match="'fnn' has no sharding rule; known: .*ffn"):
        sharding.spec(("fnn",))


@pytest.mark.parametrize(
    "shape, change, message",
    [
        ((1, 1, 8), {}, "model=8 does not divide the model's 4 key-value heads"),
        ((1, 1, 4), {"ffn_width": 22}, "model=4 does not divide the model's 22 ffn width"),
        ((1, 1, 4), {"vocab_size": 17}, "model=4 does not divide the model's 17 vocabulary"),
        ((1, 2, 4), {"width": 7}, "context=2 does not divide the model's 7 width"),
        ((1, 3, 1), {"width": 12}, "context=3 must be a power of two of at most 32"),
    ],
)
def test_a_mesh_that_does_not_divide_a_model_is_refused_before_its_weights_are_made(shape, change, message):
    """XLA's own message comes late and names no field."""
    with pytest.raises(ValueError, match=message) as error:
        init_params(dataclasses.replace(CONFIG, **change), dtype="float32", mesh=sharding.make_mesh(shape))
    assert "\n" not in str(error.value)


def test_every_weight_is_split_over_all_of_context_and_model():
    """Each device reads 1/n of the matrices; only vectors may be held more than once."""
    mesh = sharding.make_mesh((1, 2, 4))
    shardings = jax.tree.leaves(sharding.shardings(logical_params(CONFIG, np.dtype("float32")), mesh))
    shapes = jax.tree.leaves(jax.eval_shape(lambda: init_params(CONFIG, dtype="float32")))
    matrices = [(s, x) for s, x in zip(shardings, shapes, strict=True) if len(x.shape) > 1]
    assert len(matrices) >= 8
    for placed, weight in matrices:
        assert np.prod(placed.shard_shape(weight.shape)) * 8 == np.prod(weight.shape)


def test_rows_heads_and_slots_have_an_axis_each():
    """A context that all rows share is on every device of the data axis; tails are whole along their slots."""
    assert sharding.context_spec(4) == P("data", "model", "context", None)
    assert sharding.context_spec(1) == P(None, "model", "context", None)
    assert sharding.tail_spec(4) == P("data", "model", None, None)
    assert sharding.tail_spec(1) == P(None, "model", None, None)


@pytest.mark.parametrize(
    "flags, shape, warns", [("", (1, 1, 2), True), (sharding.IN_ORDER, (1, 1, 2), False), ("", (1, 1, 1), False)]
)
def test_several_devices_of_a_cpu_need_a_flag(monkeypatch, caplog, flags, shape, warns):
    """Each starts collectives in an order of its own, and a program ends in XLA's abort after 40 seconds."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    sharding.make_mesh(shape)
    assert (sharding.IN_ORDER in caplog.text) == warns


@pytest.mark.parametrize("weights", ["", "int8"])
def test_one_traced_layer_stands_for_all(weights):
    """Every leaf of a whole trace, with its shape, dtype and axes."""
    config, dtype = dataclasses.replace(CONFIG, num_layers=11), np.dtype("float32")
    traced = jax.eval_shape(lambda: _init(config, dtype, 0, weights))
    found = logical_params(config, dtype, weights)
    assert jax.tree.structure(found) == jax.tree.structure(traced)  # the axes' names are part of it
    assert jax.tree.leaves(found) == jax.tree.leaves(traced)
    assert len([name for name in found if name.startswith("layers_")]) == 11
