"""How fast this device reads memory: the yardstick that steps are held against."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp

_BYTES = {"cpu": 256 << 20}  # well beyond any cache
_BYTES_ELSEWHERE = 1 << 30
_TRIALS = 10


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """A measured rate.

    Attributes:
      kind: "read" (a matrix-vector product) or "copy" (reads and writes, both counted), the faster of the two.
      array_bytes: size of the array that was read.
      bytes_per_second: the best of several trials.
    """

    kind: str
    array_bytes: int
    bytes_per_second: float

    def to_dict(self) -> dict[str, str | int | float]:
        """A JSON object, with the rate in 1e9 bytes a second."""
        return {
            "kind": self.kind,
            "array_bytes": self.array_bytes,
            "gigabytes_per_second": float(f"{self.bytes_per_second / 1e9:.4g}"),
        }


def measure_bandwidth(array_bytes: int | None = None) -> Bandwidth:
    """Reads and copies a large float32 array on the first device and keeps the better rate.

    Args:
      array_bytes: size of the array; None is 256 MiB on CPU and 1 GiB elsewhere.
    """
    if array_bytes is None:
        array_bytes = _BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE)
    columns = 4096
    array = jnp.ones((max(array_bytes // 4 // columns, 1), columns), jnp.float32)
    vector = jnp.ones((columns,), jnp.float32)
    read = best_seconds(jax.jit(lambda matrix, vector: matrix @ vector), array, vector)
    copy = best_seconds(jax.jit(lambda matrix, vector: matrix + 1), array, vector)
    rates = {"read": array.nbytes / read, "copy": 2 * array.nbytes / copy}
    kind = max(rates, key=rates.__getitem__)
    return Bandwidth(kind, array.nbytes, rates[kind])


def best_seconds(function, *args: jax.Array) -> float:
    """The shortest of several calls, after one that does not count."""
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return min(seconds)
