"""Names of slices, meshes over them, and what fits."""

import pytest

from models.registry import preset
from rapid_jax.planning import fits, topology


@pytest.mark.parametrize(
    "name, chips", [("v5e:2x4", 8), ("v5e:4x4", 16), ("v5p:2x2x1", 4), ("v6e:1x1", 1), ("v4:2x2x2", 8)]
)
def test_a_slice_of_each_chip(name, chips):
    piece = topology.parse(name)
    assert (piece.name, piece.chips) == (name, chips)


@pytest.mark.parametrize("name", ["v9:2x4", "v5e", "v5e:", "v5e:2x2x2", "v5p:2x4", "v5e:0x4", "v5e:2xb", ""])
def test_what_is_no_slice_is_refused_with_what_would_be(name):
    with pytest.raises(ValueError, match=r"CHIP:SHAPE|has shapes such as"):
        topology.parse(name)


def test_larger_slices_come_in_order():
    names = [piece.name for piece in topology.parse("v5e:2x4").larger()]
    assert names[0] == "v5e:4x4"
    assert "v5e:2x4" not in names


@pytest.mark.parametrize(
    "name, chips, mesh",
    [
        ("llama31_8b", 8, (1, 1, 8)),
        ("llama31_70b", 16, (1, 2, 8)),
        ("qwen25_7b", 8, (1, 2, 4)),  # four key-value heads
        ("qwen25_72b", 32, (1, 4, 8)),
        ("llama31_8b", 1, (1, 1, 1)),
    ],
)
def test_the_default_mesh_divides_the_model(name, chips, mesh):
    assert fits.default_mesh(preset(name), chips) == mesh
    assert fits.divides(preset(name), mesh)


def test_a_number_of_chips_that_nothing_divides_is_refused():
    with pytest.raises(ValueError, match="no mesh of 6 chips"):
        fits.default_mesh(preset("llama31_8b"), 6)


GB = 1e9


def test_what_fits_needs_no_proposal():
    need = fits.Need(weights=16 * GB, document=16 * GB, passages=0, each=GB)
    assert fits.proposals(need, topology.parse("v5e:2x4"), preset("llama31_8b"), 131_072) == []


def test_what_does_not_fit_is_told_the_next_slice_and_the_longest_context():
    """140 GB of weights and 40 GB of keys and values on eight chips of 16 GiB: 22.5 GB a chip."""
    need = fits.Need(weights=120 * GB, document=40 * GB, passages=0, each=GB)
    found = fits.proposals(need, topology.parse("v5e:2x4"), preset("llama31_70b"), 131_072)
    assert found[:2] == ["--topology=v5e:4x4", "--weights=int8"]
    tokens = int(found[2].removeprefix("--context="))
    shorter = fits.Need(120 * GB, 40 * GB * tokens / 131_072, 0, GB)
    assert 0 < tokens < 131_072
    assert shorter.per_chip(8) <= fits.room(topology.parse("v5e:2x4"))


def test_where_the_weights_alone_are_too_many_no_context_is_short_enough():
    need = fits.Need(weights=140 * GB, document=40 * GB, passages=0, each=GB)
    asked = (need, topology.parse("v5e:2x4"), preset("llama31_70b"), 131_072)
    assert fits.proposals(*asked, weights="int8") == ["--topology=v5e:4x4", "--weights=int4"]
    assert fits.proposals(*asked, weights="int4") == ["--topology=v5e:4x4"]
