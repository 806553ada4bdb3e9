"""Costs of drafts of several lengths: what a measured step computes, and that all hosts take those of one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import hosts
from rapid_jax.copying.drafter import CopyDrafter, make_memory
from rapid_jax.decoding.drafter import Pace
from rapid_jax.decoding.pacing import with_costs
from rapid_jax.decoding.programs import Program
from rapid_jax.decoding.step import burst, judge, propose

LENGTHS = (2, 5)


@pytest.fixture
def started(lab):
    """(spec, context, state) of two rows of which nothing can be copied: no last token stood there before."""
    spec = dataclasses.replace(lab.spec(0), drafter=CopyDrafter(LENGTHS, 2))
    context, _, state = lab.start(spec, [[1, 6, 0], [2, 5, 4]])
    memory = make_memory([[1, 2, 6, 0], [2, 5, 4]], new_tokens=16, longest=5)
    counters = dataclasses.replace(state.counters, by_source=jnp.zeros((2, len(spec.drafter.sources)), jnp.int32))
    return spec, context, dataclasses.replace(state, drafter_cache=memory, counters=counters)


@pytest.mark.parametrize("pace", [0, 1, 2])
def test_a_pace_computes_all_of_its_rows(lab, started, pace):
    """A step that is measured where nothing can be copied would cost as much as one without a draft, and every later
    draft would look free. NaN is found at every pace."""
    spec, context, state = started
    model = Pace(jnp.ones(3), jnp.int32(pace))
    known = (state.last_tokens, state.keys, state.num_tokens)

    @jax.jit
    def judged(params, context, state):
        draft, _ = propose(spec, model, state.drafter_cache, spec.controls(), known)
        behind, outcome = judge(spec, params, context, draft, spec.controls(), state)
        return outcome.block, behind.not_finite

    block, not_finite = judged(lab.target.params, context, state)
    keys = np.asarray(block.k[0])
    assert not_finite.tolist() == [0, 0]
    assert judged({**lab.target.params, "final_norm": {"weight": jnp.full(16, jnp.nan)}}, context, state)[1].all()
    computed = np.any(keys != 0, axis=(1, 3))
    assert computed.shape == (2, 6)
    np.testing.assert_array_equal(computed, np.arange(6)[None] <= (0, *LENGTHS)[pace] + np.zeros((2, 1)))


def arguments(started):
    spec, context, state = started
    model = Pace(jnp.array([1.0, jnp.inf, jnp.inf]), jnp.int32(-1))
    return (), context, model, hosts.put(spec.controls(), None), jnp.zeros(2, bool), state


def measured(args):
    """Costs of a program that does nothing."""
    return with_costs(Program(lambda *_: (), tuple(range(len(jax.tree.leaves(args))))), args).costs


def test_all_hosts_take_the_costs_of_one(started, monkeypatch):
    """Hosts whose clocks differ would draft differently and wait for each other for ever."""
    sent = []
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "_broadcast", lambda data: sent.append(json.loads(data)) or data)
    costs = measured(arguments(started))
    assert len(sent) == 1 and costs.dtype == jnp.float32
    np.testing.assert_array_equal(costs, np.float32(sent[0][0]))


@pytest.mark.parametrize(
    ("start", "steps", "costs"),
    [
        (0.5, (1.0, 1.5, 3.0), (1, 2, 5)),
        (0.0, (1.0, 1.5, 0.5), (1, 1.5, 1)),
        (2.0, (1.0, 1.5, 3.0), (1, 2, 5)),
    ],
)
def test_costs_are_those_of_steps_alone(started, monkeypatch, start, steps, costs):
    """The start of a burst is shared by many steps; a draft that seems to cost less than none is a clock's noise, and
    one of nothing would be taken for the fastest."""
    trials = [(9.0, 9.0, 9.0, 9.0), *[(start, *steps)] * 3]  # the first one warms up
    clock = iter(np.cumsum([0.0] + [x for trial in trials for one in trial for x in (one, 5.0)]).tolist())
    monkeypatch.setattr("rapid_jax.decoding.pacing.time.perf_counter", lambda: next(clock))
    np.testing.assert_allclose(measured(arguments(started)), costs)


def test_the_state_is_left_as_it_is(lab, started):
    """The burst takes its state's memory over: an answer would begin with buffers that are gone, or with tokens that
    were drawn to measure."""
    args = (lab.target.params, *arguments(started)[1:])
    run = lab.programs.get(burst, (started[0], 4), args, donate=(5,))
    costs = with_costs(run, args).costs
    assert costs[0] == 1 and (costs >= 1).all() and jnp.isfinite(costs).all()
    assert not any(x.is_deleted() for x in jax.tree.leaves(args))
    assert not args[-1].num_tokens.any() and not args[-1].done.any()
