"""A program compiled and read: its work, its collectives, its temporaries, and how often its loops run."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from models.attention import xla
from models.attention.causal import BLOCK
from rapid_jax.config import HierarchyConfig
from rapid_jax.config.methods import Method
from rapid_jax.planning import hlo
from rapid_jax.planning.cost import Work, on_the_wire
from rapid_jax.planning.shapes import Plan, Workload, context_shape

Trips = Callable[[hlo.Instruction, int | None], float]
Share = Callable[[hlo.Instruction, list[hlo.HloArray]], float]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program, figures of one chip.

    Attributes:
      work: what it does.
      collectives: (kind, chips in a group) -> (how many run, bytes of their results).
      temporaries: bytes, the program's own code included.
      aliased: bytes of arguments that results take over.
      first: of a prefill with loops whose bound is data, the work of a document's first chunk; else None.
    """

    work: Work
    collectives: dict[tuple[str, int], tuple[float, float]]
    temporaries: int
    aliased: int
    first: Work | None = None


def compile_program(
    lowered: jax.stages.Lowered, trips: Trips | None = None, first: Trips | None = None, share: Share | None = None
) -> Compiled:
    """Compiles, and reads the text.

    Args:
      lowered: the program.
      trips: of its loops, as in hlo.HloProgram.
      first: the same for the first chunk of a document; None where no program of that kind is meant.
      share: of the operations of its kernels, as in hlo.HloProgram.
    """
    compiled = lowered.compile()
    program = dataclasses.replace(hlo.parse(compiled.as_text() or "", trips), share=share)
    memory: Any = compiled.memory_analysis()
    found = program.collectives()
    wire = on_the_wire(found)
    sums: dict[tuple[str, int], tuple[float, float]] = {}
    for one in found:
        times, size = sums.get((one.kind, one.group), (0.0, 0.0))
        sums[one.kind, one.group] = times + one.times, size + one.times * one.bytes
    begun = None
    if first is not None and program.unknown_loops:
        other = dataclasses.replace(program, trips=first)
        begun = Work(other.traffic(), other.flops(), *wire)
    return Compiled(
        Work(program.traffic(), program.flops(), *wire),
        sums,
        memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        memory.alias_size_in_bytes,
        begun,
    )


def step_trips(plan: Plan, workload: Workload, method: Method) -> Trips:
    """Iterations of the loops of a step.

    Loops over a drafter's forwards carry the drafted keys and values of every layer. Where it tests candidates, behind
    its first forward, their number is assumed. Other loops whose bound is data go over blocks of a context's keys.
    """
    emitted = min(workload.tokens_per_step, HierarchyConfig().length + 1.0)
    more = max(workload.gamma / emitted, 1.0) - 1.0
    blocks = dict(_blocks(plan, tokens, workload.chunk, tokens) for tokens in (workload.retrieved, workload.context))

    def trips(loop: hlo.Instruction, told: int | None) -> float:
        alike = collections.Counter(array.dims for array in loop.shape if len(array.dims) > 3)
        if max(alike.values(), default=0) >= 2 * plan.config.num_layers:
            return more if method.looks_up else told or 1
        return told or next((blocks[n] for n in blocks if _carries(loop, n)), 1)

    return trips


def loop_trips(plan: Plan, workload: Workload, start: int) -> Trips:
    """Iterations of the loops of models.attention.xla in a prefill chunk behind `start` tokens.

    The loop over blocks of keys carries a shard's whole context; the causal one goes over the tiles before each tile.
    """
    slots, blocks = _blocks(plan, workload.context, workload.chunk, start)
    tiles = -(-workload.chunk // BLOCK)

    def trips(loop: hlo.Instruction, told: int | None) -> float:
        if told is not None:
            return told
        return blocks if _carries(loop, slots) else (tiles - 1) / 2

    return trips


def _blocks(plan: Plan, tokens: int, chunk: int, seen: int) -> tuple[int, int]:
    """Slots of a shard of a context for so many tokens, and the blocks of keys in which `seen` of them lie."""
    shards = 1 if plan.mesh is None else plan.mesh.shape["context"]
    slots = context_shape(plan, tokens, chunk).capacity // shards
    return slots, math.ceil(seen / shards / min(xla.KEY_BLOCK, slots))


def _carries(loop: hlo.Instruction, slots: int) -> bool:
    return any(slots in array.dims[-2:-1] for array in loop.shape)


def kernel_share(plan: Plan, workload: Workload, start: int) -> Share:
    """Of the operations of models.attention.tpu's kernel over a context, those that a chunk behind `start` tokens does.

    What it says of itself is of a full context, because the program is compiled before the length is known.
    """
    shards = 1 if plan.mesh is None else plan.mesh.shape["context"]
    slots = context_shape(plan, workload.context, workload.chunk).capacity // shards

    def share(call: hlo.Instruction, operands: list[hlo.HloArray]) -> float:
        reads_context = any(slots in array.dims[-2:] for array in operands)
        causal = "flash_causal" in call.name + call.attributes
        return start / shards / slots if reads_context and not causal else 1.0

    return share
