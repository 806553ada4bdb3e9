"""What a compiled program does, read from its text: collectives, memory traffic, operations, with loops counted out.

XLA's own `cost_analysis` counts the body of a loop once, and counts what a TPU moves between its two memories three
times: read, written, read again. Here only arrays in the main memory (HBM) count: the text marks those on the chip
with a memory space, S(1).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "replica-id", "after-all",
    "opt-barrier", "add-dependency",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class HloArray:
    """An array of a shape's text: element type, dimensions, and whether it is in the main memory."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        bits = 8 if self.dtype.startswith("f8") else _BITS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype) or 0)
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: tuple[HloArray, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool
    literal: str

    def called(self, key: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of one chip.

    Attributes:
      kind: a name in COLLECTIVES.
      bytes: of its results.
      group: chips that take part.
      times: how often it runs.
    """

    kind: str
    bytes: int
    group: int
    times: float = 1


@dataclasses.dataclass(frozen=True)
class HloProgram:
    """A compiled module.

    Attributes:
      computations: instructions by computation, each by name, in order.
      entry: the name of the main computation.
      trips: iterations of a loop, the mean over its runs, from the loop and what the text tells of them, None where its
        bound is data; without it such a loop runs once.
      share: of the operations that a kernel says it does, those that the lengths it is given leave, from the call and
        its operands; None is all.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    trips: Callable[[Instruction, int | None], float] | None = None
    share: Callable[[Instruction, list[HloArray]], float] | None = None

    @functools.cached_property
    def runs(self) -> dict[str, float]:
        """How often the computations of the control flow run: the main one, bodies of loops, branches, calls."""
        counts: dict[str, float] = {}

        def visit(name: str, times: float) -> None:
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations[name].values():
                for inner, trips in self._control(instruction):
                    visit(inner, times * trips)

        visit(self.entry, 1)
        return counts

    @functools.cached_property
    def unknown_loops(self) -> tuple[str, ...]:
        """Loops whose number of iterations the text does not tell."""
        loops = (i for name in self.runs for i in self.computations[name].values() if i.opcode == "while")
        return tuple(loop.name for loop in loops if self._trips(loop) is None)

    def collectives(self) -> tuple[Collective, ...]:
        """Every collective once.

        Of an asynchronous pair the start counts. A TPU also does a collective in pieces, a chain of them fused into
        what is computed meanwhile; of such a chain the piece that begins it counts.
        """
        found = []
        for name, times in self.runs.items():
            for instruction in self.computations[name].values():
                for where, one in self._inside(instruction, name):
                    kind = one.opcode.removesuffix("-start")
                    if kind in COLLECTIVES and not self._continues(one, where):
                        found.append(Collective(kind, _result_bytes(one), _group(one), times))
        return tuple(found)

    def flops(self) -> float:
        """Operations of matrix products, a multiplication and an addition each, and what kernels say of themselves.

        A matrix times a vector is compiled into products and their sum, so sums of products count in the same way.
        """
        total = 0.0
        for name, times in self.runs.items():
            for instruction in self.computations[name].values():
                total += times * sum(self._flops(one, where) for where, one in self._inside(instruction, name))
        return total

    def traffic(self) -> float:
        """Bytes read from the main memory and written to it."""
        return sum(
            times
            * sum(map(functools.partial(self._traffic, self.computations[name]), self.computations[name].values()))
            for name, times in self.runs.items()
        )

    def _continues(self, one: Instruction, where: str) -> bool:
        if "chain_id" not in one.attributes:
            return False
        return not any("AsyncCollectiveStart" in i.attributes for i in self.computations[where].values())

    def _control(self, instruction: Instruction) -> Iterator[tuple[str, float]]:
        if instruction.opcode == "while":
            told = self._trips(instruction)
            yield instruction.called("body") or "", (told or 1) if self.trips is None else self.trips(instruction, told)
        elif instruction.opcode == "call":
            yield instruction.called("to_apply") or "", 1
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = _NAME.findall(branches[1]) if branches else []
            names += [n for n in map(instruction.called, ("true_computation", "false_computation")) if n]
            if names:
                yield max(names, key=self._weight), 1  # what the dearest branch does

    def _weight(self, computation: str) -> tuple[float, int]:
        """By which branches are compared: operations, and bytes of results."""
        scope = self.computations[computation]
        operations = sum(self._flops(one, where) for i in scope.values() for where, one in self._inside(i, computation))
        size = sum(map(_result_bytes, scope.values()))
        for inner, times in (run for i in scope.values() for run in self._control(i)):
            more = self._weight(inner)
            operations, size = operations + times * more[0], size + round(times * more[1])
        return operations, size

    def _trips(self, loop: Instruction) -> int | None:
        told = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
        if told:
            return int(told[1])
        condition = self.computations[loop.called("condition") or ""]
        scope = [i for one in condition.values() for i in self._within(one)]
        limits = [i for i in scope if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.literal)]
        compares = [i for i in scope if i.opcode == "compare"]
        if len(limits) != 1 or len(compares) != 1:
            return None
        return max(int(limits[0].literal), 1)

    def _within(self, instruction: Instruction) -> Iterator[Instruction]:
        for _, one in self._inside(instruction, ""):
            yield one

    def _inside(self, instruction: Instruction, where: str) -> Iterator[tuple[str, Instruction]]:
        """The instruction, and those of the computation that it is fused from or starts, with where they stand."""
        yield where, instruction
        starts = instruction.opcode.endswith(("-done", "-update"))
        inner = None if starts else instruction.called("calls")
        if inner in self.computations:
            for one in self.computations[inner].values():
                yield from self._inside(one, inner)

    def _flops(self, instruction: Instruction, where: str) -> float:
        scope = self.computations[where]
        if instruction.opcode == "custom-call":
            said = _estimate(instruction, "flops")
            operands = [array for name in instruction.operands if name in scope for array in scope[name].shape]
            return said * self.share(instruction, operands) if said and self.share is not None else said
        if instruction.opcode == "reduce":
            summed = scope[instruction.operands[0]]
            while summed.opcode in ("bitcast", "convert", "copy"):
                summed = scope[summed.operands[0]]
            return 2 * math.prod(summed.shape[0].dims) if summed.opcode == "multiply" else 0
        if instruction.opcode not in ("dot", "convolution"):
            return 0
        left, right = (scope[name].shape[0].dims for name in instruction.operands[:2])
        out = math.prod(instruction.shape[0].dims)
        if instruction.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
            return 2 * out * math.prod(left[int(d)] for d in (contracted[1] if contracted else "").split(",") if d)
        labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
        kernel = dict(zip(labels[1] if labels else "", right, strict=False))
        diluted = "lhs_dilate" in instruction.attributes or "rhs_reversal" in instruction.attributes
        # A batch of matrix products is written as a window of which one place at a time meets anything.
        return (
            2
            * out
            * math.prod(size for label, size in kernel.items() if label == "i" or (label != "o" and not diluted))
        )

    def _traffic(self, scope: dict[str, Instruction], i: Instruction) -> int:
        kind = i.opcode
        if kind in _FREE or kind in ("while", "conditional", "call") or kind.endswith(("-done", "-update")):
            return 0
        if (
            kind == "copy-start"
        ):  # one end of it may be on the chip; a prefetch for the program's next run is this one's
            return 0 if "cross_program_prefetch" in i.attributes else sum(a.bytes for a in i.shape[:2] if a.in_hbm)
        operands = [scope[name] for name in i.operands if name in scope]
        if kind == "custom-call" and (said := _estimate(i, "bytes_accessed")):
            on_chip = [a for part in (i, *operands) for a in part.shape if not a.in_hbm]  # copied there before
            return max(said - _sum(on_chip), 0)
        inner = self.computations.get(i.called("calls") or "")
        if kind in ("slice-start", "dynamic-slice-start"):  # (operands, result, context)
            result = [a for a in i.shape if a.dims][-1]
            return result.bytes * (result.in_hbm + operands[0].shape[0].in_hbm)
        if inner is not None:
            return _fused_traffic(i, operands, inner)
        if kind in _SLICES:
            return _hbm(i.shape) + (_sum(i.shape) if operands and operands[0].shape[0].in_hbm else 0)
        if kind in ("dynamic-update-slice", "scatter"):
            update = operands[1 if kind == "dynamic-update-slice" else -1]
            return _hbm(update.shape) + (_sum(update.shape) if i.shape[0].in_hbm else 0)
        if kind.endswith("-start") and kind.removesuffix("-start") in ("all-gather", "collective-permute"):
            return _hbm(i.shape)
        return _hbm(i.shape) + sum(_hbm(operand.shape) for operand in operands)


def parse(text: str, trips: Callable[[Instruction, int | None], float] | None = None) -> HloProgram:
    """Reads `compiled.as_text()`; `trips` as in HloProgram."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "->" in line:
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ", 1)[0]
            current = computations.setdefault(name, {})
            if line.startswith("ENTRY"):
                entry = name
        elif current is not None and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return HloProgram(computations, entry, trips)


def _instruction(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        left.split()[-1].lstrip("%"),
        rest[:opening],
        tuple(_arrays(shape)),
        tuple(_NAME.findall(inside)),
        rest[closing + 1 :],
        left.lstrip().startswith("ROOT"),
        inside,
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return position
    raise ValueError(f"a bracket is never closed in the compiled text: {text[:80]}")


def _arrays(shape: str) -> Iterator[HloArray]:
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        yield HloArray(dtype, tuple(int(d) for d in dims.split(",") if d), space is None or space[1] == "0")


def _sum(arrays: Iterable[HloArray]) -> int:
    return sum(a.bytes for a in arrays)


def _hbm(arrays: Iterable[HloArray]) -> int:
    return sum(a.bytes for a in arrays if a.in_hbm)


def _fused_traffic(fusion: Instruction, operands: list[Instruction], inner: dict[str, Instruction]) -> int:
    """Of a fusion: where only a slice of an operand is looked at, or a result is written in place, only that counts."""
    parameters = {int(i.literal): i.name for i in inner.values() if i.opcode == "parameter"}
    total = 0
    for index, operand in enumerate(operands):
        if not _hbm(operand.shape):
            continue
        uses = _uses(inner, parameters.get(index, ""))
        if uses and all(use.opcode in _SLICES or _in_place(use, at) for use, at in uses):
            total += sum(0 if _in_place(use, at) else _sum(use.shape) for use, at in uses)
        else:
            total += _hbm(operand.shape)
    root = next(i for i in inner.values() if i.is_root)
    results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for array, result in zip(fusion.shape, results, strict=False):
        while result.opcode == "bitcast":
            result = inner[result.operands[0]]
        update = inner[result.operands[1]] if result.opcode == "dynamic-update-slice" else None
        total += (array.bytes if update is None else _sum(update.shape)) if array.in_hbm else 0
    return total


def _uses(inner: dict[str, Instruction], name: str) -> list[tuple[Instruction, int]]:
    """Instructions that read a value, through bitcasts too, and as which operand."""
    found = []
    for i in inner.values():
        if name in i.operands:
            found += _uses(inner, i.name) if i.opcode == "bitcast" else [(i, i.operands.index(name))]
    return found


def _in_place(use: Instruction, at: int) -> bool:
    return use.opcode == "dynamic-update-slice" and at == 0


def _estimate(call: Instruction, key: str) -> int:
    """What a kernel says of itself (its cost_estimate); 0 where it says nothing."""
    said = re.search(rf'"{key}":"?(\d+)', call.attributes)
    return int(said[1]) if said else 0


def _result_bytes(i: Instruction) -> int:
    if i.opcode in ("all-gather-start", "collective-permute-start"):  # (operands, results, contexts)
        data = [a for a in i.shape if a.dims]
        return _sum(data[len(data) // 2 :])
    return _sum(i.shape)


def _group(i: Instruction) -> int:
    """Chips in a group, from any of the three ways in which groups are written; 2 for a permutation's pairs."""
    if i.opcode.startswith("collective-permute"):
        return 2
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes)
    if listed:
        return len(listed[1].split(","))
    grid = re.search(r"replica_groups=\[\d+,(\d+)\]<=", i.attributes)
    if grid:
        return int(grid[1])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", i.attributes)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    return 1
