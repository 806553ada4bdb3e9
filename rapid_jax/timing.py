"""Wall-clock time of device work, with compilation left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import jax

from rapid_jax.decoding.programs import Programs

T = TypeVar("T")


def timed(programs: Programs, function: Callable[[], T]) -> tuple[T, float]:
    """A function's result, ready on the device, and its seconds without compilation."""
    start, compiled = time.perf_counter(), programs.compile_seconds
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - start - (programs.compile_seconds - compiled)
