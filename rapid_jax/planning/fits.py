"""Whether a configuration fits a chip's memory, by how much it misses, and what would fit."""

from __future__ import annotations

import dataclasses

from models.config import ModelConfig
from models.formats import WEIGHTS, weight_format
from rapid_jax.planning.topology import Slice

_LARGEST_CONTEXT_AXIS = 32  # models.sharding: it must divide every prefill chunk
_ITEMSIZE = 2  # bytes of bfloat16, the dtype of what is planned
RESERVED = 1 << 28  # bytes that a TPU keeps for itself: of v5e's 16 GiB XLA gives programs 15.75


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of a configuration on all chips together, where it matters how many there are, and on each.

    Attributes:
      weights: of the model.
      document, passages: of the caches.
      each: on every chip alike: tails, temporaries.
    """

    weights: float
    document: float
    passages: float
    each: float

    def per_chip(self, chips: int) -> float:
        """Bytes on one of so many chips."""
        return (self.weights + self.document + self.passages) / chips + self.each


def room(piece: Slice) -> int:
    """Bytes of a chip that programs can have."""
    return piece.chip.hbm_bytes - RESERVED


def default_mesh(config: ModelConfig, chips: int) -> tuple[int, int, int]:
    """(data, context, model) that uses all chips: heads over as many as divide the model, slots over the rest.

    Raises:
      ValueError: no mesh of so many chips divides the model.
    """
    meshes = [(1, chips // model, model) for model in range(chips, 0, -1) if not chips % model]
    for mesh in meshes:
        if divides(config, mesh):
            return mesh
    raise ValueError(
        f"no mesh of {chips} chips divides the model ({config.num_kv_heads} key-value heads, width {config.width})"
    )


def divides(config: ModelConfig, mesh: tuple[int, int, int]) -> bool:
    """Whether a model can be split so; as models.sharding.check_divides, before there is a mesh."""
    _, context, model = mesh
    sizes = (config.num_kv_heads, config.num_heads, config.ffn_width, config.vocab_size)
    return (
        not any(size % model for size in sizes) and not config.width % context and not _LARGEST_CONTEXT_AXIS % context
    )


def proposals(need: Need, piece: Slice, config: ModelConfig, context: int, *, weights: str = "") -> list[str]:
    """Configurations near this one that fit, by estimate; empty where it fits as it is.

    Args:
      need: of the configuration as it was asked for.
      piece: the slice that was asked for.
      config: the model.
      context: tokens of the document.
      weights: format that they are in already (models.formats). A format of keys and values does not help: until all is
        read they are in the model's dtype.
    """
    chips, free = piece.chips, room(piece)
    if need.per_chip(chips) <= free:
        return []
    found = []
    for larger in piece.larger():
        try:
            default_mesh(config, larger.chips)
        except ValueError:
            continue
        if need.per_chip(larger.chips) <= free:
            found.append(f"--topology={larger.name}")
            break
    for name in WEIGHTS:
        smaller = weight_format(name).bytes_per_weight(_ITEMSIZE) / weight_format(weights).bytes_per_weight(_ITEMSIZE)
        if smaller < 1 and dataclasses.replace(need, weights=need.weights * smaller).per_chip(chips) <= free:
            found.append(f"--weights={name}")
            break
    without = dataclasses.replace(need, document=0.0).per_chip(chips)
    if without < free and need.document:
        tokens = int((free - without) * chips / need.document * context) // 1024 * 1024
        if tokens:
            found.append(f"--context={tokens}")
    return found
