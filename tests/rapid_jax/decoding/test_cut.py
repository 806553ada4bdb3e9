"""Where a step's tokens are cut, the first stop id, the budget, what was never emitted; and where a burst ends."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding import step as steps
from rapid_jax.decoding.loop import initial_state
from rapid_jax.decoding.step import _append, _cut, burst

STOP, PAD = 7, -1


def cut(tokens, count, *, said=0, budget=16, done=False):
    state = types.SimpleNamespace(num_tokens=jnp.array([said]), budget=jnp.array([budget]), done=jnp.array([done]))
    kept, ended = _cut(jnp.array([tokens]), jnp.array([count]), state, jnp.array([STOP, PAD]))
    return int(kept[0]), bool(ended[0])


@pytest.mark.parametrize(
    "tokens, count, more, expected",
    [
        ([1, 2, 3, 4], 3, {}, (3, False)),
        ([1, 2, 3, 4], 4, {}, (4, False)),
        ([1, STOP, 3, 4], 3, {}, (2, True)),
        ([STOP, STOP, 3, 4], 3, {}, (1, True)),
        ([1, 2, STOP, 4], 3, {}, (3, True)),
        ([1, 2, STOP, 4], 2, {}, (2, False)),  # behind the count stand drafted tokens that were rejected
        ([STOP, 2, 3, STOP], 4, {}, (1, True)),
        ([1, 2, 3, STOP], 4, {}, (4, True)),
        ([1, 2, 3, 4], 4, dict(said=13), (3, True)),
        ([1, 2, 3, 4], 4, dict(said=12), (4, True)),
        ([1, 2, 3, 4], 3, dict(said=12), (3, False)),
        ([1, 2, STOP, 4], 4, dict(said=14), (2, True)),
        ([1, 2, STOP, 4], 4, dict(said=13), (3, True)),
        ([1, STOP, 3, 4], 4, dict(done=True), (0, True)),
        ([1, 2, 3, 4], 3, dict(budget=0, said=0), (0, True)),
    ],
)
def test_a_row_keeps_what_was_emitted_up_to_its_first_stop_id_and_its_budget(tokens, count, more, expected):
    """A token too many, or an answer that ends because of a rejected token, is another answer."""
    assert cut(tokens, count, **more) == expected


def test_what_is_kept_goes_behind_what_was_said_and_nowhere_else():
    """A row that is full, or keeps nothing, must not be written to."""
    output = jnp.zeros((3, 4), jnp.int32)
    emitted = jnp.array([[1, 2, 3]] * 3)
    written = _append(output, jnp.array([1, 3, 2]), emitted, jnp.array([2, 3, 0]))
    assert written.tolist() == [[0, 1, 2, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    "budgets, stopped, taken",
    [([3, 9], [False, False], 4), ([3, 2], [False, False], 3), ([3, 9], [False, True], 3), ([3, 9], [True, True], 0)],
)
def test_a_burst_ends_with_its_steps_or_with_its_last_row(monkeypatch, budgets, stopped, taken):
    """The host reads every so many steps; a device that decodes on for nobody is a device that others wait for."""

    def count(spec, params, context, drafter_model, controls, state):
        said = state.num_tokens + 1  # of every row, done or not
        return dataclasses.replace(state, num_tokens=said, done=state.done | (said >= state.budget))

    monkeypatch.setattr(steps, "step", count)
    state = initial_state(np.zeros((2, 2), np.int32), (), (), budget=np.array(budgets), capacity=16, seed=0)
    state, report = burst(None, 4, {}, (), (), None, jnp.array(stopped), state)
    assert report.num_tokens.tolist() == state.num_tokens.tolist() == [taken] * 2
