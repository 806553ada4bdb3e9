"""Compiled programs, one a function and shape: compilation is timed apart and never happens twice."""

from __future__ import annotations

import dataclasses
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
    compiled: dict[Hashable, Program] = dataclasses.field(default_factory=dict)

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
          args: the arrays to compile for; shapes, dtypes and shardings matter, and which of them are the same array.
          donate: positions in args whose buffers the results may take over.
          out_shardings: of the results, a prefix of their tree; None leaves a result to the compiler. What is passed
            again to the same executable needs its own shardings here.
        """
        leaves, tree = jax.tree.flatten(args)
        donated = [position in donate for position, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        places = _places(leaves, donated)
        key: Hashable = (function, static, tree, tuple((x.shape, x.dtype, x.sharding) for x in leaves), places)
        if key not in self.compiled:
            start = time.perf_counter()
            given = sorted(set(places))
            order = {leaf: position for position, leaf in enumerate(given)}

            def spread(*arrays: jax.Array) -> Any:
                return function(*static, *jax.tree.unflatten(tree, [arrays[order[place]] for place in places]))

            taken = tuple(order[leaf] for leaf in given if donated[leaf])
            jitted = jax.jit(spread, donate_argnums=taken, out_shardings=out_shardings)
            executable = jitted.lower(*(leaves[leaf] for leaf in given)).compile()
            self.compiled[key] = Program(executable, places)
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[key]


@dataclasses.dataclass(frozen=True)
class Program:
    """An executable that takes each array once.

    Weights that target and drafter share are leaves of two arguments, and XLA would count, and on a full device refuse,
    their bytes twice.

    Attributes:
      executable: of the arrays that differ.
      places: for each leaf of the arguments, the first leaf that is the same array.
    """

    executable: Any
    places: tuple[int, ...]

    def __call__(self, *args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if any(leaves[place] is not leaf for place, leaf in zip(self.places, leaves, strict=True)):
            raise ValueError("arguments that were one array when the program was compiled have become two")
        return self.executable(*(leaves[leaf] for leaf in sorted(set(self.places))))


def _places(leaves: list[Any], donated: list[bool]) -> tuple[int, ...]:
    """For each leaf the first that is the same array; of those that are donated, each is its own."""
    first: dict[int, int] = {}
    return tuple(index if donated[index] else first.setdefault(id(leaf), index) for index, leaf in enumerate(leaves))


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree's arrays."""
    return jax.tree.map(lambda x: x.sharding, tree)


def copied(tree: Any) -> Any:
    """A tree's arrays in buffers of their own, sharded alike: to run what donates them without losing them."""
    return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), x.sharding), tree)
