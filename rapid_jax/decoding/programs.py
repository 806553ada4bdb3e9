"""Compiled programs, one a function and shape: compilation is timed apart and never happens twice."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax


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
        keep: int | None = None,
    ) -> jax.stages.Compiled:
        """The executable of function(*static, *args).

        Args:
          function: a pure function of pytrees.
          static: its leading arguments, hashable.
          args: the arrays to compile for; only shapes, dtypes and shardings matter.
          donate: positions in args whose buffers the results may take over.
          keep: position in args whose tree and shardings the first result has (or the only result, if it has the same
            tree); on several devices its shardings are kept, so that it can be passed again.
        """
        leaves, tree = jax.tree.flatten(args)
        key = (function, static, tree, tuple((x.shape, x.dtype, x.sharding) for x in leaves))
        if key not in self.compiled:
            start = time.perf_counter()
            bound = functools.partial(function, *static)
            options: dict[str, Any] = {}
            if keep is not None:
                kept = jax.tree.map(lambda x: x.sharding, args[keep])
                shape = jax.eval_shape(bound, *args)
                alone = jax.tree.structure(shape) == jax.tree.structure(kept)
                options["out_shardings"] = kept if alone else (kept, *([None] * (len(shape) - 1)))
            jitted = jax.jit(bound, donate_argnums=donate, **options)
            self.compiled[key] = jitted.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[key]
