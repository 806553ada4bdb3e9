"""Compiled programs, one a function and shape: compilation is timed apart and never happens twice."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass
class Programs:
    """Compiles functions ahead of time and keeps the executables.

    Attributes:
      compile_seconds: time spent in tracing and compiling so far.
      compiled: executables by function, static arguments and argument shapes.
    """

    compile_seconds: float = 0.0
    compiled: dict[Hashable, Callable] = dataclasses.field(default_factory=dict)

    def get(
        self,
        function: Callable,
        static: tuple[Hashable, ...],
        args: tuple[Any, ...],
        *,
        donate: tuple[int, ...] = (),
        out_shardings: Any = None,
    ) -> Callable[..., Any]:
        """The executable of function(*static, *args).

        Args:
          function: a pure function of pytrees.
          static: its leading arguments, hashable.
          args: the arrays to compile for; only shapes, dtypes and shardings matter.
          donate: positions in args whose buffers the results may take over.
          out_shardings: of the results, a prefix of their tree; None leaves a result to the compiler. What is passed
            again to the same executable needs its own shardings here.
        """
        leaves, tree = jax.tree.flatten(args)
        key: Hashable = (function, static, tree, tuple((x.shape, x.dtype, x.sharding) for x in leaves))
        if key not in self.compiled:
            start = time.perf_counter()
            bound = functools.partial(function, *static)
            jitted = jax.jit(bound, donate_argnums=donate, out_shardings=out_shardings)
            self.compiled[key] = jitted.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[key]


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree's arrays."""
    return jax.tree.map(lambda x: x.sharding, tree)


def copied(tree: Any) -> Any:
    """A tree's arrays in buffers of their own, sharded alike: to run what donates them without losing them."""
    return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), x.sharding), tree)
