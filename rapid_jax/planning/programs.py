"""The programs that the Engine runs, compiled from shapes alone: a prefill chunk and a decoding step.

They are the Engine's own functions (`decoding.prefill.context_chunk`, `decoding.step.step`) with the shardings, sizes
and donations that it gives them; no weights and no caches are made.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache, TailCache
from rapid_jax.config import SamplingConfig, SpeculationConfig
from rapid_jax.config.methods import Method
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.loop import initial_state
from rapid_jax.decoding.prefill import context_chunk
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls
from rapid_jax.decoding.state import DecodeState
from rapid_jax.decoding.step import step
from rapid_jax.drafting.magicdec import WindowCache
from rapid_jax.drafting.pages import PagesCache
from rapid_jax.engine.batch import controls_of, spec_of
from rapid_jax.planning.drafters import check_planned, pages_drafter, planned_drafter, window_drafter
from rapid_jax.planning.shapes import Plan, Workload, array, context_shape, placed, tail_shape


def prefill_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """The forward that reads a chunk of the document."""
    context = context_shape(plan, workload.context, workload.chunk, read=False)
    scalar, tokens, lengths = array(plan, ()), array(plan, (1, workload.chunk)), array(plan, (1,))
    function = functools.partial(context_chunk, plan.decoder)
    jitted = jax.jit(function, donate_argnums=(1,), out_shardings=_shardings(context))
    return jitted.lower(plan.params, context, tokens, scalar, lengths)


def step_program(plan: Plan, workload: Workload, method: Method) -> jax.stages.Lowered:
    """One decoding step of a method; see `planned_drafter` for what drafts.

    Raises:
      ValueError: as `check_planned`.
    """
    check_planned(plan, method)
    if method.reads_document:
        context = context_shape(plan, workload.context, workload.chunk)
    else:
        context = context_shape(plan, workload.retrieved, workload.chunk, workload.batch)
    drafts = planned_drafter(plan, workload, method, context)
    speculation = SpeculationConfig(gamma=workload.gamma)
    spec = spec_of(method, plan.decoder, drafts.drafter, speculation)
    controls = controls_of(method, speculation, SamplingConfig(), plan.config.eos_ids)
    state = _state(plan, workload, tail_shape(plan, workload), drafts.cache, len(drafts.drafter.sources))

    def once(
        params: Any, copy: Any, context: ContextCache, read: Any, controls: Controls, state: DecodeState
    ) -> DecodeState:
        model = drafts.model(params if copy is None else copy, context, read)
        return step(spec, params, context, model, controls, state)

    copy = plan.drafter.params if method.draws and plan.drafter is not plan else None
    jitted = jax.jit(once, donate_argnums=(5,), out_shardings=_shardings(state))
    arguments = jax.tree.map(lambda x: array(plan, np.shape(x), np.asarray(x).dtype), controls)
    return jitted.lower(plan.params, copy, context, drafts.read, arguments, state)


def window_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """A forward of a drafter over sinks and window."""
    drafter, sinks, cache = window_drafter(plan, workload)

    def begin(params: Any, sinks: TailCache, cache: WindowCache, tokens: jax.Array) -> Any:
        return drafter.begin((params, sinks), cache, tokens, Warping.of(0.0))[1:]

    return jax.jit(begin).lower(plan.drafter.params, sinks, cache, array(plan, (workload.batch, 2)))


def choosing_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """The first forward of a draft that chooses pages."""
    context = context_shape(plan, workload.context, workload.chunk)
    drafter, cache = pages_drafter(plan, workload, context)

    def begin(params: Any, context: ContextCache, cache: PagesCache, tokens: jax.Array) -> Any:
        return drafter.begin((params, context), cache, tokens, Warping.of(0.0))

    return jax.jit(begin, donate_argnums=(2,)).lower(
        plan.drafter.params, context, cache, array(plan, (workload.batch, 2))
    )


def _state(plan: Plan, workload: Workload, target_tail: TailCache, drafter_cache: Any, num_sources: int) -> DecodeState:
    rows = workload.batch

    def make() -> DecodeState:
        return initial_state(
            np.zeros((rows, 2), np.int32),
            (),  # type: ignore[arg-type]  # the tails have shardings of their own
            (),
            budget=np.full(rows, workload.new_tokens, np.int32),
            capacity=token_bucket(workload.new_tokens),
            seed=0,
            num_sources=num_sources,
        )

    state = placed(plan, jax.eval_shape(make), dict.fromkeys((1, 2, 3), P("data")))
    return dataclasses.replace(state, target_tail=target_tail, drafter_cache=drafter_cache)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)
