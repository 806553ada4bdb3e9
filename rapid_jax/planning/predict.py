"""Compiles what a method runs and predicts from it memory, seconds and speed.

All layers are compiled: arguments, collectives and operations of 2 and of 4 layers do extrapolate exactly, but the
compiler keeps other arrays on the chip in a larger program, so that traffic does not (3% for 32 layers).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax

from models.attention import xla
from models.attention.causal import BLOCK
from models.progress import ProgressCallback
from rapid_jax.config import SpeculationConfig
from rapid_jax.config.methods import OWN_CACHE, OWN_PAGES, OWN_PLANES, Method, get_method
from rapid_jax.decoding.buckets import chunk_sizes
from rapid_jax.planning import formulas, hlo
from rapid_jax.planning.cost import Rates, Work, on_the_wire
from rapid_jax.planning.programs import (
    Plan,
    Workload,
    check_planned,
    choosing_program,
    context_shape,
    copied_shape,
    pages_drafter,
    prefill_program,
    step_program,
    tail_shape,
    window_drafter,
    window_program,
)
from rapid_jax.speculation import StepSeconds

Trips = Callable[[hlo.Instruction], float]
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
      trips: of its loops whose bound is data, as in hlo.HloProgram.
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


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a chip, the shapes' own.

    Attributes:
      weights: of the target, and of the drafter where it is another model; self-speculation holds them once.
      document, passages, tails: while decoding.
      pages: of the document, copied for drafts, or a window of it with what is said behind it.
      unread: what the document takes beyond that while it is read, in the model's dtype.
      temporaries: of the decoding program that needs the most.
      reading: temporaries of a prefill chunk.
    """

    weights: int
    document: int
    passages: int
    tails: int
    unread: int = 0
    pages: int = 0
    temporaries: int = 0
    reading: int = 0

    @property
    def prefill(self) -> int:
        """While the document is read."""
        return self.weights + self.document + self.unread + self.reading

    @property
    def decoding(self) -> int:
        """While answers are decoded."""
        return self.weights + self.document + self.passages + self.pages + self.tails + self.temporaries

    @property
    def peak(self) -> int:
        """The larger of both."""
        return max(self.prefill, self.decoding)


def memory(plan: Plan, workload: Workload, method: Method) -> Memory:
    """Without temporaries, which only compiling tells."""
    document = passages = pages = unread = 0
    weights = formulas.chip_bytes(plan.params)
    if method.draws and plan.drafter is not plan:
        weights += formulas.chip_bytes(plan.drafter.params)
    if method.reads_document:
        size = (workload.context, workload.chunk)
        document = formulas.chip_bytes(context_shape(plan, *size))
        unread = formulas.chip_bytes(context_shape(plan, *size, read=False)) - document
    if method.retrieves:
        passages = formulas.chip_bytes(context_shape(plan, workload.retrieved, workload.chunk, workload.batch))
    if method.drafting_model == OWN_PAGES:
        pages = formulas.chip_bytes(
            pages_drafter(plan, workload, context_shape(plan, workload.context, workload.chunk))[1].chosen
        )
    window = method.drafting_model == OWN_CACHE
    if window:
        pages = formulas.chip_bytes(window_drafter(plan, workload)[1:])
    tails = (2 if method.draws and not window else 1) * formulas.chip_bytes(tail_shape(plan, workload))
    tails += formulas.chip_bytes(copied_shape(plan, workload)) if method.copies else 0
    return Memory(weights, document, passages, tails, unread, pages)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """A method on a mesh; figures of one chip.

    Attributes:
      plan, workload, method, rates: what was asked.
      memory: see there.
      chunk: the last prefill chunk of what the target reads.
      plain: a step of plain decoding over it.
      step: a step of the method; the same where it drafts nothing.
      draft: a forward of the drafter; None where there is none, and where drafts are copied.
      choosing: the forward of a drafter that chooses pages; None where there is none.
    """

    plan: Plan
    workload: Workload
    method: Method
    rates: Rates
    memory: Memory
    chunk: Compiled
    plain: Compiled
    step: Compiled
    draft: Compiled | None
    choosing: Compiled | None = None

    @functools.cached_property
    def verify(self) -> Work:
        """The target's forward over a whole draft, with acceptance: the step without the drafter's forwards."""
        if self.draft is None:
            return self.step.work.at_least(self.plain.work) if self.drafts else self.plain.work
        drafts, gamma = self.draft.work, float(self.workload.gamma)
        if self.choosing is not None:
            return self.step.work.plus(self.choosing.work, -1.0).plus(drafts, 1.0 - gamma).at_least(self.plain.work)
        return self.step.work.plus(drafts, -gamma).at_least(self.plain.work)

    def costs(self, context: int | None = None) -> StepSeconds:
        """What speculation is decided by, at this or another length of the document, with its own passages."""
        tokens = self.read_tokens if context is None else context
        queries, gamma = self.workload.batch, self.workload.gamma
        plain = self._longer(self.plain.work, tokens - self.read_tokens, queries, 1).seconds(self.rates)
        if not self.drafts:
            return StepSeconds(plain, 0.0)
        verify = self._longer(self.verify, tokens - self.read_tokens, queries * (gamma + 1), 1).seconds(self.rates)
        if self.draft is None:
            return StepSeconds(plain, 0.0, max(verify - plain, 0.0) / gamma)
        if self.method.drafting_model == OWN_PLANES:
            longer = self._longer(self.draft.work, tokens - self.read_tokens, queries, 1, self.plan.upper)
            return StepSeconds(plain, longer.seconds(self.rates), max(verify - plain, 0.0) / gamma)
        if self.method.drafting_model == OWN_CACHE:  # a window does not grow with the document
            return StepSeconds(plain, self.draft.work.seconds(self.rates), max(verify - plain, 0.0) / gamma)
        if self.choosing is not None:  # what is read of pages does not grow with the document
            draft = self.draft.work.seconds(self.rates)
            more = 1.5 * (tokens - self.read_tokens)  # keys are read and scored twice, values once
            chooses = self._longer(self.choosing.work, more, queries, 1).seconds(self.rates)
            start = max(chooses - draft, 0.0) / SpeculationConfig().page_renewal
            return StepSeconds(plain, draft, max(verify - plain, 0.0) / gamma, start)
        passages = dataclasses.replace(self.workload, context=tokens).retrieved
        more = passages - self.workload.retrieved
        draft = self._longer(self.draft.work, more, queries, queries).seconds(self.rates)
        return StepSeconds(plain, draft, max(verify - plain, 0.0) / gamma)

    @property
    def drafts(self) -> bool:
        """Whether a step of the method drafts."""
        return self.draft is not None or self.method.copies

    @property
    def baseline(self) -> str:
        """The name of plain decoding over the target's context."""
        return "lc" if self.method.reads_document else "rag"

    @property
    def last_start(self) -> int:
        """Tokens before the last chunk of what the target reads."""
        return max(self.read_tokens - self.workload.chunk, 0)

    @property
    def step_seconds(self) -> float:
        """Of the method's step: one forward after another."""
        return self.costs().step(self.workload.gamma if self.drafts else 0)

    @property
    def ideal_step_bytes(self) -> float:
        """What a step of plain decoding has to read on a chip: its share of weights, keys and values."""
        w, rows = self.workload, 1 if self.method.reads_document else self.workload.batch
        kv = formulas.kv_bytes_per_token(context_shape(self.plan, w.context, w.chunk)) * self.read_tokens * rows
        mesh = self.plan.mesh
        shards = 1 if mesh is None else mesh.shape["context"] * mesh.shape["model"]
        data = 1 if mesh is None or rows == 1 else mesh.shape["data"]
        return formulas.weights_read(self.plan) / shards + kv / shards / data

    @property
    def read_tokens(self) -> int:
        """Tokens of the target's context."""
        return self.workload.context if self.method.reads_document else self.workload.retrieved

    def prefill_seconds(self) -> float:
        """Of all that target and drafter read, questions aside."""
        w = self.workload
        total = 0.0
        if self.method.reads_document:
            total += self.reading_seconds(w.context)
        if self.method.retrieves:
            total += w.batch * self.reading_seconds(w.retrieved)
        return total

    @property
    def saved_bytes(self) -> int:
        """Keys and values of the document, as a saved document holds them for all chips."""
        w = self.workload
        return round(formulas.kv_bytes_per_token(context_shape(self.plan, w.context, w.chunk)) * w.context)

    def chunk_work(self, start: int) -> Work:
        """A prefill chunk behind `start` tokens."""
        last = self.last_start
        if self.chunk.first is None or last <= 0:
            return self._longer(self.chunk.work, start - last, self.workload.chunk, 1)
        return self.chunk.first.plus(self.chunk.work - self.chunk.first, start / last)

    def reading_seconds(self, tokens: int) -> float:
        """Of prefilling one context of so many tokens."""
        chunk = self.workload.chunk
        starts = range(0, tokens, chunk)
        sizes = chunk_sizes(tokens, chunk)
        return sum(
            self.chunk_work(start).seconds(self.rates) * size / chunk for start, size in zip(starts, sizes, strict=True)
        )

    def _longer(self, work: Work, tokens: float, queries: int, documents: int, plan: Plan | None = None) -> Work:
        """The same over a context that is longer by so many tokens, in the formats of a plan; None is the target's."""
        mesh, config = self.plan.mesh, self.plan.config
        shards = 1 if mesh is None else mesh.shape["context"] * mesh.shape["model"]
        rows = 1 if mesh is None else mesh.shape["data"]
        shape = context_shape(plan or self.plan, self.workload.context, self.workload.chunk)
        per_token = formulas.kv_bytes_per_token(shape)
        read = per_token * documents / (rows if documents > 1 else 1) / shards
        flops = formulas.attention_flops(config, queries, 1) / shards / (rows if queries % rows == 0 else 1)
        return Work(work.bytes + tokens * read, work.flops + tokens * flops, work.wire_bytes, work.hops)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A step that is to be compiled: of which method, with which formats, for what."""

    method: str
    plan: Plan
    workload: Workload


def predict(
    plan: Plan,
    workload: Workload,
    method: Method,
    rates: Rates,
    progress: ProgressCallback | None = None,
    known: dict[Hashable, Compiled] | None = None,
) -> Prediction:
    """Compiles the programs of a method: up to five, each of all layers.

    Args:
      plan, workload, method: what is asked.
      rates: of a device.
      progress: called with (programs compiled, programs in all).
      known: programs of other methods and formats of the same model, mesh and workload; what is compiled is added.

    Raises:
      ValueError: a mesh that does not divide the model, or a method that `programs.check_planned` refuses.
    """
    check_planned(plan, method)
    pages, planes, window = (method.drafting_model == kind for kind in (OWN_PAGES, OWN_PLANES, OWN_CACHE))
    drafted = dataclasses.replace(workload, passages=workload.pages) if pages else workload
    wanted = [_Wanted("lc" if method.reads_document else "rag", plan, workload)]
    if planes:
        wanted.append(_Wanted("lc", plan.upper, workload))
    elif method.draws and not window:
        wanted.append(_Wanted("rag", plan.drafter, drafted))
    if method.draws or method.copies:
        wanted.append(_Wanted(method.name, plan, workload))
    read = workload if method.reads_document else dataclasses.replace(workload, context=workload.retrieved)
    last, known = max(read.context - read.chunk, 0), {} if known is None else known

    def compiled(whose: Plan, name: str, lower: Callable[[], jax.stages.Lowered], *reading: Any) -> Compiled:
        key = (name, read.context, whose.weights, whose.drafter.weights if name == method.name else "", whose.kv)
        if key not in known:
            known[key] = compile_program(lower(), *reading)
        return known[key]

    reading = loop_trips(plan, read, last), loop_trips(plan, read, 0), kernel_share(plan, read, last)
    chunk = compiled(plan, "prefill", lambda: prefill_program(plan, read), *reading)
    steps, total = [], len(wanted) + 1 + pages + window
    for done, one in enumerate(wanted, 1):
        if progress is not None:
            progress(done, total)
        name = "pages read" if one.workload is not workload else one.method
        lower = functools.partial(step_program, one.plan, one.workload, get_method(one.method))
        steps.append(compiled(one.plan, name, lower))
    choosing = compiled(plan.drafter, "pages chosen", lambda: choosing_program(plan, workload)) if pages else None
    if progress is not None:
        progress(total, total)
    held = memory(plan, workload, method)
    held = dataclasses.replace(held, temporaries=max(one.temporaries for one in steps), reading=chunk.temporaries)
    draft = steps[1] if method.draws else None
    if window:
        draft = compiled(plan.drafter, "window read", lambda: window_program(plan, workload))
    return Prediction(plan, workload, method, rates, held, chunk, steps[0], steps[-1], draft, choosing)


def loop_trips(plan: Plan, workload: Workload, start: int) -> Trips:
    """Iterations of the loops of models.attention.xla whose bound is data, in a prefill chunk behind `start` tokens.

    The loop over blocks of keys carries a shard's whole context; the causal one goes over the tiles before each tile.
    """
    shards = 1 if plan.mesh is None else plan.mesh.shape["context"]
    slots = context_shape(plan, workload.context, workload.chunk).capacity // shards
    blocks = math.ceil(start / shards / min(xla.KEY_BLOCK, slots))
    tiles = -(-workload.chunk // BLOCK)

    def trips(loop: hlo.Instruction) -> float:
        return blocks if any(slots in array.dims[-2:-1] for array in loop.shape) else (tiles - 1) / 2

    return trips


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
