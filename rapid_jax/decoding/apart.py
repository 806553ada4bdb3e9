"""Draft and verify on devices of their own: two programs a step, between which only a draft and its outcome travel.

RAPID's upward speculation drafts with a model larger than the target (arXiv 2502.20330, section 4.1), which need not
share the target's devices. What crosses in a step is a draft's tokens and its q [B,gamma,V], and back the emitted
tokens and their number. A row's next draft depends on what the verification of this one emits, so that for one row the
two take turns; of a batch, one half of the rows is drafted for while the other half is verified.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache
from rapid_jax.decoding.drafter import Draft, Outcome
from rapid_jax.decoding.programs import Programs, copied, shardings_of
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import BurstReport, DecodeState, check_finite
from rapid_jax.decoding.step import Known, judge, propose


def first_draft(spec: StepSpec, model: Any, cache: Any, controls: Controls, known: Known) -> tuple[Any, Draft, Any]:
    """(The drafter's cache, its first draft, its work on it)."""
    return (cache, *propose(spec, model, cache, controls, known))


def next_draft(
    spec: StepSpec, model: Any, cache: Any, drafted: Any, outcome: Outcome, controls: Controls, known: Known
) -> tuple[Any, Draft, Any]:
    """Commits what became of the last draft and drafts again; returns as `first_draft`."""
    return first_draft(spec, model, spec.drafter.commit(cache, drafted, outcome), controls, known)


def verify_draft(
    spec: StepSpec,
    params: dict,
    context: ContextCache,
    draft: Draft,
    controls: Controls,
    stopped: jax.Array,
    state: DecodeState,
) -> tuple[DecodeState, BurstReport, Outcome, Known]:
    """The target's half; rows that the host has `stopped` (bool [B]) are done."""
    state = dataclasses.replace(state, done=state.done | stopped)
    state, outcome = judge(spec, params, context, draft, controls, state)
    outcome = dataclasses.replace(outcome, block=None, rows=None)  # the target's, and stay with it
    return state, BurstReport.of(state), outcome, (state.last_tokens, state.keys, state.num_tokens)


def decode_apart(
    programs: Programs,
    spec: StepSpec,
    params: dict,
    context: ContextCache,
    drafter_model: Any,
    controls: Controls,
    state: DecodeState,
    *,
    mesh: Mesh | None,
    drafter_mesh: Mesh,
) -> Generator[BurstReport, np.ndarray | None, DecodeState]:
    """As `decoding.loop.decode`, a report a step; the meshes are the target's and the drafter's.

    A batch that splits into two halves, each over the data axes of both meshes, is decoded in two lanes, whose programs
    are started in turn: each device works for one lane while the other lane's arrays are on the other devices. Contexts
    of one row each, the drafter's or the target's, are then held twice.
    """
    rows = state.num_tokens.shape[0]
    data = math.lcm(*(m.shape["data"] for m in (mesh, drafter_mesh) if m is not None))
    if rows % (2 * data):
        return (yield from _lane(programs, spec, params, context, drafter_model, controls, state, mesh, drafter_mesh))
    halves = slice(0, rows // 2), slice(rows // 2, rows)
    states = [_rows(state, half, rows) for half in halves]
    lanes = []
    for half, own in zip(halves, states, strict=True):
        read = _rows(context, half, rows), _rows_read(drafter_model, half, rows)
        lanes.append(_lane(programs, spec, params, *read, controls, own, mesh, drafter_mesh))
    reports, ends = [next(lane) for lane in lanes], [None, None]
    while None in ends:
        stop = yield jax.tree.map(lambda *parts: np.concatenate(parts), *reports)
        for index, lane in enumerate(lanes):
            if ends[index] is None:
                try:
                    reports[index] = lane.send(None if stop is None else stop[halves[index]])
                except StopIteration as end:
                    ends[index] = end.value
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *ends)


def _rows(tree: Any, part: slice, rows: int) -> Any:
    """Some rows of arrays that have them all, sharded as before; others, which all rows share, as they are."""
    return jax.tree.map(
        lambda x: jax.device_put(x[part], x.sharding) if x.shape[:1] == (rows,) else x,
        tree,
    )


def _rows_read(drafter_model: Any, part: slice, rows: int) -> Any:
    """Some rows of the contexts that a drafter reads, with its parameters, which have none."""
    params, *contexts = drafter_model
    return (params, *(_rows(context, part, rows) for context in contexts))


def _lane(
    programs: Programs,
    spec: StepSpec,
    params: dict,
    context: ContextCache,
    drafter_model: Any,
    controls: Controls,
    state: DecodeState,
    mesh: Mesh | None,
    drafter_mesh: Mesh,
) -> Generator[BurstReport, np.ndarray | None, DecodeState]:
    """One lane: report n is read while step n + 1 runs."""
    on_drafter = NamedSharding(drafter_mesh, P())
    on_target = NamedSharding(mesh, P()) if mesh is not None else state.done.sharding
    cache, state = state.drafter_cache, dataclasses.replace(state, drafter_cache=())
    by_row = state.done.sharding
    on_both = hosts.put(controls, on_target), hosts.put(controls, on_drafter)
    ended = hosts.fetch(state.done)
    stopped = hosts.put(ended, by_row)

    known = hosts.put((state.last_tokens, state.keys, state.num_tokens), on_drafter)
    args = (drafter_model, cache, on_both[1], known)
    compiled = programs.count
    begin = programs.get(first_draft, (spec,), args, donate=(1,), out_shardings=(shardings_of(cache), on_drafter, None))
    cache, draft, drafted = begin(*args)
    judged = (params, context, hosts.put(draft, on_target), on_both[0], stopped, state)
    back = (shardings_of(state), on_target, on_target, on_target)
    verify = programs.get(verify_draft, (spec,), judged, donate=(5,), out_shardings=back)

    def follow(cache: Any, drafted: Any, outcome: Outcome, known: Known) -> tuple[Any, Draft, Any]:
        told, since = hosts.put((outcome, known), on_drafter)
        args = (drafter_model, cache, drafted, told, on_both[1], since)
        placed = (shardings_of(cache), on_drafter, shardings_of(drafted))
        return programs.get(next_draft, (spec,), args, donate=(1,), out_shardings=placed)(*args)

    if programs.count > compiled:  # a whole step on copies, so that the clock meets nothing new
        _, _, *told = verify(*judged[:-1], copied(state))
        jax.block_until_ready(follow(copied(cache), drafted, *told))
    yield hosts.fetch(BurstReport.of(state))

    before = None
    while True:
        state, report, *told = verify(params, context, hosts.put(draft, on_target), on_both[0], stopped, state)
        cache, draft, drafted = follow(cache, drafted, *told)
        if before is not None:
            host = hosts.fetch(before)
            check_finite(host)
            stop = yield host
            if stop is not None:
                ended = ended | stop
                stopped = hosts.put(ended, by_row)
            if np.all(host.done | ended):
                return dataclasses.replace(state, drafter_cache=cache)
        before = report
