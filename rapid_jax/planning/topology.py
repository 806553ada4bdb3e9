"""TPU chips in numbers, and slices of them that XLA compiles for on a machine without a TPU.

Numbers a chip, from Google's pages: https://docs.cloud.google.com/tpu/docs/v4, .../v5e, .../v5p-training, .../v6e.
Those of v5e, v5p and v6e give the interconnect as bytes a second of all ports in both directions (400, 1200 and 800
GB/s over 4, 6 and 4 ports): a link in one direction is that over twice the ports. v4's gives none; its 4.5e10 bytes a
second, and a microsecond for a hop of any chip, are those of the book "How to Scale Your Model"
(https://jax-ml.github.io/scaling-book/tpus).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from typing import Any

GIB = 1 << 30
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: as in the name of a slice.
      hbm_bytes: memory.
      hbm_bandwidth: bytes a second.
      flops: peak bfloat16 operations a second.
      link_bandwidth: of one interconnect link in one direction, bytes a second.
      accelerator: the prefix of its accelerator type.
      slices: usual shapes, the smallest first.
    """

    name: str
    hbm_bytes: int
    hbm_bandwidth: float
    flops: float
    link_bandwidth: float
    accelerator: str
    slices: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * GIB, 1.2e12, 275e12, 45e9, "v4", _CUBES),
        Chip("v5e", 16 * GIB, 819e9, 197e12, 50e9, "v5litepod", _FLAT),
        Chip("v5p", 95 * GIB, 2765e9, 459e12, 100e9, "v5p", _CUBES),
        Chip("v6e", 32 * GIB, 1638e9, 918e12, 100e9, "v6e", _FLAT),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together, such as v5e:2x4.

    Attributes:
      chip: of which kind.
      shape: chips along each dimension of the torus or mesh.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.shape)

    def larger(self) -> tuple[Slice, ...]:
        """The usual slices of the same chip that have more chips, the smallest first."""
        usual = (Slice(self.chip, tuple(map(int, shape.split("x")))) for shape in self.chip.slices)
        return tuple(other for other in usual if other.chips > self.chips)


def parse(name: str) -> Slice:
    """The slice of a name such as v5e:2x4 or v5p:2x2x2.

    Raises:
      ValueError: an unknown chip, or a shape that is not of its number of dimensions.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(f"topology {name!r} is not known: it must be CHIP:SHAPE with a chip of {', '.join(CHIPS)}")
    chip = CHIPS[kind]
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes) or len(sizes) != len(chip.slices[0].split("x")):
        raise ValueError(f"topology {name!r}: {kind} has shapes such as {', '.join(chip.slices[1:4])}")
    return Slice(chip, tuple(map(int, sizes)))


def has_compiler() -> bool:
    """Whether libtpu, the TPU's compiler, is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices(piece: Slice) -> list[Any]:
    """The chips of a slice as devices that `jit(...).lower(...).compile()` takes; nothing can run on them.

    Raises:
      ModuleNotFoundError: libtpu is not installed.
      ValueError: libtpu does not know the slice.
    """
    if not has_compiler():
        raise ModuleNotFoundError("libtpu")
    # libtpu asks the metadata server of a Google Cloud machine for these, and waits for minutes where there is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{piece.chip.accelerator}-{piece.chips}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    import jax
    from jax.experimental import topologies

    jax.devices("cpu")  # has read XLA_FLAGS by now; libtpu ends the process where it meets a flag that it does not know
    os.environ.pop("XLA_FLAGS", None)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=piece.name).devices)
    except Exception as e:  # JaxRuntimeError and others, of one long line
        raise ValueError(f"topology {piece.name} cannot be compiled for: {str(e).splitlines()[0][:200]}") from None
