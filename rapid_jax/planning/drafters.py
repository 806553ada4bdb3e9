"""The drafters that the planner compiles, with the shapes and shardings of what they read and keep."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache, TailCache
from models.pages import Pages, chosen_shapes
from models.sharding import context_specs
from rapid_jax.config import CopyingConfig, HierarchyConfig, SpeculationConfig
from rapid_jax.config.methods import OWN_CACHE, OWN_PAGES, OWN_PLANES, Method
from rapid_jax.copying.drafter import CopyDrafter, CopyMemory, empty_memory
from rapid_jax.decoding.buckets import context_bucket, token_bucket
from rapid_jax.decoding.drafter import Drafter
from rapid_jax.decoding.pacing import without_costs
from rapid_jax.drafting.assisted import AssistedDrafter
from rapid_jax.drafting.auto import AutoCache, AutoDrafter
from rapid_jax.drafting.magicdec import MagicDecDrafter, WindowCache
from rapid_jax.drafting.makers import PassagesMaker
from rapid_jax.drafting.null import NullDrafter
from rapid_jax.drafting.pages import PagesCache, PagesDrafter
from rapid_jax.drafting.planes import PlanesDrafter
from rapid_jax.hierarchy.drafter import HierarchyDrafter
from rapid_jax.hierarchy.row_databases import Hierarchy, RowDatabases
from rapid_jax.hierarchy.setup import StaticDatabases, make_hierarchy, make_row_databases
from rapid_jax.planning.shapes import QUESTION, Plan, Workload, array, context_shape, placed, tail_shape


@dataclasses.dataclass(frozen=True)
class PlannedDrafter:
    """A drafter of a step.

    Attributes:
      drafter: static.
      read: what it reads besides weights and the target's context.
      cache: what it keeps.
      model: weights, the target's context and `read` -> what the drafter takes as its model. Weights and contexts that
        target and drafter share come in once: of two equal arguments the compiler would count both.
    """

    drafter: Drafter
    read: Any = ()
    cache: Any = ()
    model: Callable[[Any, ContextCache, Any], Any] = lambda params, context, read: read


def check_planned(plan: Plan, method: Method) -> None:
    """Raises ValueError for a method that asks other texts alone, or that does not go with the plan's formats."""
    if method.drafting_model == OWN_PLANES and plan.kv != "planes":
        raise ValueError(f'method {method.name} drafts over the upper plane of keys and values: set kv to "planes"')
    config = method.hierarchy(HierarchyConfig())
    if method.looks_up and not any(map(_nothing_built(config).has, config.databases)):
        raise ValueError(f"method {method.name} asks a database of other texts, whose size the planner does not know")


def planned_drafter(plan: Plan, workload: Workload, method: Method, context: ContextCache) -> PlannedDrafter:
    """A method's drafter over a target's context of these shapes; a model that drafts is the target itself.

    Copied drafts have gamma tokens; a drafter that reads pages chooses them in every step. Of the databases, those are
    asked that are made of what was read and said.

    Raises:
      ValueError: as `check_planned`.
    """
    check_planned(plan, method)
    gamma, vocab_size = workload.gamma, plan.config.vocab_size
    if method.drafts_from_passages:
        chain = PassagesMaker().chain(plan.drafter.decoder, SpeculationConfig(gamma=gamma), vocab_size)
        passages = context_shape(plan, workload.retrieved, workload.chunk, workload.batch)
        tail = tail_shape(plan, workload)
        if not method.looks_up:
            return PlannedDrafter(chain, passages, tail, lambda params, _, read: (params, read))
        hierarchy, rows = databases(plan, workload, method)
        return PlannedDrafter(
            AssistedDrafter(chain, hierarchy), passages, (tail, rows), lambda params, _, read: (params, read, {})
        )
    if method.looks_up:
        hierarchy, rows = databases(plan, workload, method)
        return PlannedDrafter(HierarchyDrafter(hierarchy), {}, rows)
    if method.drafting_model == OWN_CACHE:
        window, sinks, cache = window_drafter(plan, workload)
        return PlannedDrafter(window, sinks, cache, lambda params, _, read: (params, read))
    if method.drafting_model == OWN_PLANES:
        planes = PlanesDrafter(plan.drafter.decoder, gamma, vocab_size)
        return PlannedDrafter(planes, (), tail_shape(plan, workload), lambda params, context, _: (params, context))
    copies = CopyDrafter((gamma,), CopyingConfig().places)
    if method.drafting_model == OWN_PAGES:
        own, pages = pages_drafter(plan, workload, context)
        if not method.copies:
            return PlannedDrafter(own, (), pages, lambda params, context, _: (params, context))
        auto = AutoDrafter(copies, own, (gamma,))
        row = placed(plan, jax.ShapeDtypeStruct((workload.batch,), "float32"), {1: P("data")})
        kept = AutoCache(copied_shape(plan, workload), pages, row, row)
        return PlannedDrafter(auto, _pace(plan, auto.ways), kept, lambda params, context, read: (read, params, context))
    if method.copies:
        return PlannedDrafter(copies, _pace(plan, 2), copied_shape(plan, workload))
    return PlannedDrafter(NullDrafter(vocab_size))


def pages_drafter(plan: Plan, workload: Workload, context: ContextCache) -> tuple[PagesDrafter, PagesCache]:
    """A drafter that chooses pages in every step, and the shapes of its cache."""
    cut = Pages.of(context, SpeculationConfig().page_size, workload.pages)
    drafter = PagesDrafter(plan.drafter.decoder, workload.gamma, plan.config.vocab_size, pages=cut, renewal=1)
    shapes = chosen_shapes(context, workload.batch, cut)
    chosen, mass = placed(plan, shapes, context_specs(workload.batch))
    own, due = tail_shape(plan, workload), cast(jax.Array, array(plan, ()))
    return drafter, PagesCache(own.k, own.v, own.length, chosen, mass, due)


def window_drafter(plan: Plan, workload: Workload) -> tuple[MagicDecDrafter, TailCache, WindowCache]:
    """A drafter over sinks and window of the default sizes, and the shapes of both."""
    settings = SpeculationConfig()
    drafter = MagicDecDrafter(plan.drafter.decoder, workload.gamma, plan.config.vocab_size)
    window = min(settings.window, context_bucket(workload.context, workload.chunk) + workload.tail)
    sinks, held = (tail_shape(plan, workload, size) for size in (settings.sinks, window))
    return drafter, sinks, WindowCache(held.k, held.v, held.length, dropped=sinks.length)


def copied_shape(plan: Plan, workload: Workload) -> CopyMemory:
    """Shapes and shardings of what copies are taken from."""
    prompt = context_bucket(workload.context + QUESTION, workload.chunk)
    earlier = CopyingConfig().earlier_answers
    rows, capacity = workload.batch, token_bucket(prompt + earlier + workload.new_tokens + workload.gamma + 1)
    shapes = jax.eval_shape(functools.partial(empty_memory, rows, capacity))
    return placed(plan, shapes, {1: P("data"), 2: P("data")})


def databases(plan: Plan, workload: Workload, method: Method) -> tuple[Hierarchy, RowDatabases]:
    """How a method asks the databases of what was read and said, and their shapes."""
    config = method.hierarchy(HierarchyConfig())
    hierarchy = make_hierarchy(config, _nothing_built(config))
    read = workload.retrieved if method.retrieves else workload.context
    row = make_row_databases(
        hierarchy,
        config,
        [[0, 0]],  # shapes depend on the room alone, and rows are alike
        vocab_size=plan.config.vocab_size,
        new_tokens=workload.new_tokens + workload.gamma,
        seed=0,
        slots=context_bucket(read + QUESTION, workload.chunk),
    )
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((workload.batch, *x.shape[1:]), x.dtype), row)
    return hierarchy, placed(plan, rows, dict.fromkeys(range(1, 5), P("data")))


def _nothing_built(config: HierarchyConfig) -> StaticDatabases:
    """Those that are made of other texts are not there, and nobody asks for their tokenizer."""
    return StaticDatabases(config, cast(Any, None))


def _pace(plan: Plan, ways: int) -> Any:
    """The shapes of a Pace."""
    return jax.tree.map(lambda x: array(plan, x.shape, x.dtype), jax.eval_shape(lambda: without_costs(ways)))
