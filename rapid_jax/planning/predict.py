"""Compiles what a method runs and predicts from it memory, seconds and speed.

All layers are compiled: arguments, collectives and operations of 2 and of 4 layers do extrapolate exactly, but the
compiler keeps other arrays on the chip in a larger program, so that traffic does not (3% for 32 layers).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

from models.progress import ProgressCallback
from rapid_jax.config import HierarchyConfig, SpeculationConfig
from rapid_jax.config.methods import NO_MODEL, OWN_CACHE, OWN_PAGES, OWN_PLANES, Method, get_method
from rapid_jax.decoding.buckets import chunk_sizes
from rapid_jax.planning import formulas
from rapid_jax.planning.compiled import Compiled, compile_program, kernel_share, loop_trips, step_trips
from rapid_jax.planning.cost import Rates, Work
from rapid_jax.planning.drafters import check_planned, planned_drafter
from rapid_jax.planning.memory import Memory, memory
from rapid_jax.planning.programs import choosing_program, prefill_program, step_program, window_program
from rapid_jax.planning.shapes import Plan, Workload, context_shape
from rapid_jax.speculation import StepSeconds


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """A method on a mesh; figures of one chip.

    Attributes:
      plan, workload, method, rates: what was asked.
      memory: see there.
      chunk: the last prefill chunk of what the target reads.
      plain: a step of plain decoding over it.
      step: a step of the method; the same where it drafts nothing, that with own drafts where it chooses.
      rows: that a step verifies behind its newest token; of databases, of all candidates and of the lookahead window.
      longest: tokens of a draft from a text at most; 0 where there is none.
      draft: a forward of the drafter; None where no model drafts.
      choosing: the forward of a drafter that chooses pages; None where there is none.
      copied: a step with a copied draft, of a method that chooses in every step; None for all others.
    """

    plan: Plan
    workload: Workload
    method: Method
    rates: Rates
    memory: Memory
    chunk: Compiled
    plain: Compiled
    step: Compiled
    rows: int = 0
    longest: int = 0
    draft: Compiled | None = None
    choosing: Compiled | None = None
    copied: Compiled | None = None

    @functools.cached_property
    def verify(self) -> Work:
        """The target's forward over a whole draft, with acceptance: the step without the drafter's forwards."""
        if self.draft is None:
            return self.step.work.at_least(self.plain.work) if self.drafts else self.plain.work
        drafts, gamma = self.draft.work, self.forwards
        if self.choosing is not None:
            return self.step.work.plus(self.choosing.work, -1.0).plus(drafts, 1.0 - gamma).at_least(self.plain.work)
        return self.step.work.plus(drafts, -gamma).at_least(self.plain.work)

    @property
    def emitted(self) -> float:
        """Tokens of a forward that verifies a draft from a text, assumed, and no more than it can have."""
        return min(self.workload.tokens_per_step, self.longest + 1.0)

    @property
    def forwards(self) -> float:
        """Of the drafter, for one draft: one a token, fewer where candidates are tested by it."""
        gamma = self.workload.gamma
        return max(gamma / self.emitted, 1.0) if self.method.looks_up else float(gamma)

    @property
    def from_text(self) -> bool:
        """Whether drafts from a text go to the target."""
        return self.method.searches and (self.draft is None or self.copied is not None)

    @property
    def copied_costs(self) -> StepSeconds:
        """What is decided by where drafts come from a text."""
        if self.copied is None:
            return self.costs()
        plain, work = self.plain.work.seconds(self.rates), self.copied.work.at_least(self.plain.work)
        return StepSeconds(plain, 0.0, (work.seconds(self.rates) - plain) / self.rows)

    def costs(self, context: int | None = None) -> StepSeconds:
        """What speculation is decided by, at this or another length of the document, with its own passages."""
        tokens = self.read_tokens if context is None else context
        more, batch = tokens - self.read_tokens, self.workload.batch
        plain = self._longer(self.plain.work, more, batch, 1).seconds(self.rates)
        if not self.drafts:
            return StepSeconds(plain, 0.0)
        verify = self._longer(self.verify, more, batch * (self.rows + 1), 1).seconds(self.rates)
        return StepSeconds(plain, row=max(verify - plain, 0.0) / self.rows, **self._drafting(tokens))

    def _drafting(self, tokens: int) -> dict[str, float]:
        """Seconds of the drafter over a document of so many tokens, as StepSeconds names them."""
        more, batch = tokens - self.read_tokens, self.workload.batch
        if self.draft is None:
            return dict(draft=0.0)
        draft = self.draft.work
        if self.method.drafting_model == OWN_PLANES:
            return dict(draft=self._longer(draft, more, batch, 1, self.plan.upper).seconds(self.rates))
        if self.method.drafting_model == OWN_CACHE:  # a window does not grow with the document
            return dict(draft=draft.seconds(self.rates))
        if self.choosing is not None:  # what is read of pages does not grow, but for the keys of the choice, read twice
            chooses = self._longer(self.choosing.work, 1.5 * more, batch, 1).seconds(self.rates)
            start = max(chooses - draft.seconds(self.rates), 0.0) / SpeculationConfig().page_renewal
            return dict(draft=draft.seconds(self.rates), start=start)
        passages = dataclasses.replace(self.workload, context=tokens).retrieved - self.workload.retrieved
        rows = 1 + (HierarchyConfig().verified_rows if self.method.looks_up else 0)
        forward = self._longer(draft, passages, batch * rows, batch).seconds(self.rates)
        if self.method.looks_up:  # a draft takes at least one forward
            return dict(draft=forward / self.emitted, least=forward)
        return dict(draft=forward)

    @property
    def drafts(self) -> bool:
        """Whether a step of the method drafts."""
        return self.method.speculates

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
        return self.costs().step(self.rows)

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

    method: Method
    plan: Plan
    workload: Workload
    name: str = ""


def _wanted(plan: Plan, workload: Workload, method: Method) -> dict[str, _Wanted]:
    """The steps that tell what a method costs, by what they tell."""
    lc, rag, own = (get_method(name) for name in ("lc", "rag", "pages"))
    wanted = dict(plain=_Wanted(lc if method.reads_document else rag, plan, workload))
    if method.drafting_model == OWN_PLANES:
        wanted["draft"] = _Wanted(lc, plan.upper, workload)
    elif method.drafting_model == OWN_PAGES:
        read = dataclasses.replace(workload, passages=workload.pages)
        wanted["draft"] = _Wanted(rag, plan.drafter, read, "pages read")
    elif method.drafts_from_passages and method.looks_up:
        asks = dataclasses.replace(method, name="hd", reads_document=False, drafting_model=NO_MODEL)
        wanted["draft"] = _Wanted(asks, plan.drafter, workload, "passages read with candidates")
    elif method.drafts_from_passages:
        wanted["draft"] = _Wanted(rag, plan.drafter, workload)
    if method.draws and method.copies:
        wanted.update(step=_Wanted(own, plan, workload), copied=_Wanted(get_method("copy"), plan, workload))
    if method.speculates:
        wanted["whole" if "step" in wanted else "step"] = _Wanted(method, plan, workload)
    return wanted


def predict(
    plan: Plan,
    workload: Workload,
    method: Method,
    rates: Rates,
    progress: ProgressCallback | None = None,
    known: dict[Hashable, Compiled] | None = None,
) -> Prediction:
    """Compiles the programs of a method: up to seven, each of all layers.

    Args:
      plan, workload, method: what is asked.
      rates: of a device.
      progress: called with (programs compiled, programs in all).
      known: programs of other methods and formats of the same model, mesh and workload; what is compiled is added.

    Raises:
      ValueError: a mesh that does not divide the model, or a method that `drafters.check_planned` refuses.
    """
    check_planned(plan, method)
    pages, window = (method.drafting_model == kind for kind in (OWN_PAGES, OWN_CACHE))
    wanted = _wanted(plan, workload, method)
    read = workload if method.reads_document else dataclasses.replace(workload, context=workload.retrieved)
    last, known = max(read.context - read.chunk, 0), {} if known is None else known
    total = len(wanted) + 1 + pages + window

    def compiled(whose: Plan, name: str, lower: Callable[[], jax.stages.Lowered], *reading: Any) -> Compiled:
        if progress is not None:
            progress(len(steps), total)
        key = (name, read.context, whose.weights, whose.drafter.weights, whose.kv)
        if key not in known:
            known[key] = compile_program(lower(), *reading)
        return known[key]

    steps: dict[str, Compiled] = {}
    reading = loop_trips(plan, read, last), loop_trips(plan, read, 0), kernel_share(plan, read, last)
    alone = dataclasses.replace(plan, drafter_weights="")
    steps["chunk"] = compiled(alone, "prefill", lambda: prefill_program(plan, read), *reading)
    for role, one in wanted.items():
        # Plans that differ in the drafter's weights alone share what has no drafter.
        whose = one.plan if one.method.draws else dataclasses.replace(one.plan, drafter_weights="")
        lower = functools.partial(step_program, whose, one.workload, one.method)
        steps[role] = compiled(whose, one.name or one.method.name, lower, step_trips(whose, one.workload, one.method))
    if pages:
        trips = step_trips(plan.drafter, workload, method)
        steps["choosing"] = compiled(plan.drafter, "pages chosen", lambda: choosing_program(plan, workload), trips)
    elif window:
        trips = step_trips(plan.drafter, workload, method)
        steps["draft"] = compiled(plan.drafter, "window read", lambda: window_program(plan, workload), trips)
    if progress is not None:
        progress(total, total)
    held, decoding = memory(plan, workload, method), [one for role, one in steps.items() if role != "chunk"]
    held = dataclasses.replace(
        held, temporaries=max(one.temporaries for one in decoding), reading=steps["chunk"].temporaries
    )
    rows = longest = 0
    if method.speculates:
        drafter = planned_drafter(plan, workload, method, context_shape(plan, read.context, read.chunk)).drafter
        rows, longest = len(drafter.layout.offsets) - 1, drafter.gamma if method.searches else 0
        if method.draws and method.looks_up:
            longest = HierarchyConfig().length
    return Prediction(
        plan,
        workload,
        method,
        rates,
        held,
        chunk=steps["chunk"],
        plain=steps["plain"],
        step=steps.get("step", steps["plain"]),
        rows=rows,
        longest=longest,
        draft=steps.get("draft"),
        choosing=steps.get("choosing"),
        copied=steps.get("copied"),
    )
