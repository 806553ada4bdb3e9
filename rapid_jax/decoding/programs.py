"""Compiled programs, one a function and shape: compilation is timed apart, and happens once while a program is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")

MOST = 256  # programs that are kept; a question with one method needs about eight


@dataclasses.dataclass
class Programs:
    """Compiles functions ahead of time and keeps the executables, up to `most`; the least recently used goes first.

    Threads may compile different programs at the same time; of those that ask for the same one, one compiles it.

    Attributes:
      compile_seconds: time spent in tracing and compiling so far, of all threads together.
      count: programs compiled so far, those that have gone included.
      compiled: executables by function, static arguments and argument shapes, the latest used last.
      most: executables that are kept.
      runs: whether those who ask for a program shall run it; otherwise they leave what it would change as it is.
      on_compile: called with True before a program is compiled and with False behind it.
    """

    compile_seconds: float = 0.0
    count: int = 0
    compiled: dict[Hashable, Program] = dataclasses.field(default_factory=dict)
    most: int = MOST
    runs: ClassVar[bool] = True
    on_compile: Callable[[bool], None] = lambda begins: None
    _lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, repr=False)
    _turns: dict[Hashable, threading.Lock] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def running(self) -> Programs:
        """Those whose programs run: these, unless they are only compiled."""
        return self

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Counts the seconds of a block as compiling."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.compile_seconds += time.perf_counter() - start

    def timed(self, function: Callable[[], T]) -> tuple[T, float]:
        """A function's result, ready on the device, and its seconds without compilation."""
        start, compiled = time.perf_counter(), self.compile_seconds
        result = jax.block_until_ready(function())
        return result, time.perf_counter() - start - (self.compile_seconds - compiled)

    def get(
        self,
        function: Callable,
        static: tuple[Hashable, ...],
        args: tuple[Any, ...],
        *,
        donate: tuple[int, ...] = (),
        out_shardings: Any = None,
    ) -> Program:
        """The executable of function(*static, *args).

        Args:
          function: a pure function of pytrees.
          static: its leading arguments, hashable.
          args: the arrays to compile for; shapes, dtypes and shardings matter, and which of them are the same array.
          donate: positions in args whose buffers the results may take over.
          out_shardings: of the results, a prefix of their tree; None leaves a result to the compiler. What is passed
            again to the same executable needs its own shardings here.
        """
        key = self.key(function, static, args, donate=donate)
        donated = _donated(args, donate)
        places = _places(jax.tree.leaves(args), donated)
        with self._lock:
            if key in self.compiled:
                return self._keep(key, self.compiled[key])
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self.compiled:  # another thread has compiled it meanwhile
                    return self._keep(key, self.compiled[key])
                self.on_compile(True)
            try:
                with self.spending():
                    program = _compile(functools.partial(function, *static), args, donated, places, out_shardings)
                with self._lock:
                    self.count += 1
                    return self._keep(key, program)
            finally:
                with self._lock:
                    self.on_compile(False)
                    self._turns.pop(key, None)  # not before the program is kept: others would compile it again

    def key(
        self, function: Callable, static: tuple[Hashable, ...], args: tuple[Any, ...], *, donate: tuple[int, ...] = ()
    ) -> Hashable:
        """What the program of these arguments of `get` is kept by."""
        leaves, tree = jax.tree.flatten(args)
        arrays = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
        return function, static, tree, arrays, _places(leaves, _donated(args, donate))

    def _keep(self, key: Hashable, program: Program) -> Program:
        """Makes a program the one that was used last."""
        self.compiled.pop(key, None)
        self.compiled[key] = program
        while len(self.compiled) > self.most:
            del self.compiled[next(iter(self.compiled))]
        return program


def _compile(
    function: Callable, args: tuple[Any, ...], donated: list[bool], places: tuple[int, ...], out_shardings: Any
) -> Program:
    """The program of a function; `donated` and `places` have an entry for each leaf of the arguments."""
    leaves, tree = jax.tree.flatten(args)
    given = sorted(set(places))
    order = {leaf: position for position, leaf in enumerate(given)}

    def spread(*arrays: jax.Array) -> Any:
        return function(*jax.tree.unflatten(tree, [arrays[order[place]] for place in places]))

    taken = tuple(order[leaf] for leaf in given if donated[leaf])
    jitted = jax.jit(spread, donate_argnums=taken, out_shardings=out_shardings)
    if any(x.dtype == jnp.int4 and _on_cpu(x) for x in leaves):
        return Program(jitted, places)  # JAX compares layouts ahead of time, and takes a CPU's int4 for another one
    return Program(jitted.lower(*(leaves[leaf] for leaf in given)).compile(), places)


def _on_cpu(x: Any) -> bool:
    return next(iter(x.sharding.device_set)).platform == "cpu"


@dataclasses.dataclass(frozen=True)
class Program:
    """An executable that takes each array once.

    Weights that target and drafter share are leaves of two arguments, and XLA would count, and on a full device refuse,
    their bytes twice.

    Attributes:
      executable: of the arrays that differ; compiled by its first call where arrays are int4 on a CPU.
      places: for each leaf of the arguments, the first leaf that is the same array.
      measured: what has been measured of it, by name.
    """

    executable: Any
    places: tuple[int, ...]
    measured: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def __call__(self, *args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if any(leaves[place] is not leaf for place, leaf in zip(self.places, leaves, strict=True)):
            raise ValueError("arguments that were one array when the program was compiled have become two")
        return self.executable(*(leaves[leaf] for leaf in sorted(set(self.places))))


def _donated(args: tuple[Any, ...], donate: tuple[int, ...]) -> list[bool]:
    """For each leaf whether it is donated."""
    return [position in donate for position, arg in enumerate(args) for _ in jax.tree.leaves(arg)]


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
