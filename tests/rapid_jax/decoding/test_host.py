"""The host's side alone, over programs that count in the place of models: nothing is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.sharding import make_mesh
from rapid_jax.decoding import apart
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.state import DRAFTER, TARGET, BurstReport, NotFinite
from rapid_jax.decoding.step import burst
from rapid_jax.drafting import NullDrafter


def step(state, stopped, not_finite=0):
    """Each row that is not done says its own number once more."""
    done = state.done | stopped
    say = jnp.where(done, state.output.shape[1], state.num_tokens)
    rows = jnp.arange(len(done))
    found = jnp.where(done, 0, not_finite)
    return dataclasses.replace(
        state,
        output=state.output.at[rows, say].set(state.newest[:, 0], mode="drop"),
        num_tokens=state.num_tokens + ~done,
        done=done | (state.num_tokens + ~done >= state.budget),
        not_finite=state.not_finite | found,
    )


class Counting(Programs):
    """Programs that are there at once: a burst of two steps, or the halves of a step on devices of their own."""

    not_finite = 0

    def __init__(self, known=True, size=0):
        super().__init__(compiled=dict.fromkeys(range(size)))
        self.known, self.log, self.stopped = known, [], []

    def get(self, function, static, args, **_):
        self.count += not self.known

        def run(*given):
            self.log.append(function.__name__)
            if function is apart.first_draft:
                return given[1], (), ()
            if function is apart.next_draft:
                return given[0], (), ()
            stopped, state = given[-2:]
            self.stopped.append(np.asarray(stopped).tolist())
            for _ in range(2 if function is burst else 1):
                state = step(state, stopped, self.not_finite)
            known = (state.last_tokens, state.keys, state.num_tokens)
            return (state, BurstReport.of(state), *([] if function is burst else [(), known]))

        run.measured = {"warm": self.known}
        return run


def started(budgets, *, on_their_own, programs):
    """A generator of reports; with a drafter on devices of its own, two lanes of an even number of rows."""
    rows = len(budgets)
    numbers = np.stack([np.zeros(rows, np.int32), 10 + np.arange(rows, dtype=np.int32)], axis=1)
    state = initial_state(numbers, (), (), budget=np.array(budgets), capacity=16, seed=0)
    mesh = make_mesh((1, 1, 1), jax.devices()[1:2]) if on_their_own else None
    spec = StepSpec(None, NullDrafter(8), apart=mesh)
    return decode(programs, spec, {}, (), ({},), Controls.of(), state, burst_steps=2)


@pytest.fixture(params=["together", "apart"])
def on_their_own(request):
    return request.param == "apart"


def test_rows_that_end_one_after_the_other_end_the_batch(on_their_own):
    """A stop string that was met earlier still counts: else the device would decode on for nobody."""
    bursts = started([16], on_their_own=on_their_own, programs=Counting())
    next(bursts), next(bursts)
    with pytest.raises(StopIteration):
        bursts.send(np.array([True]))
    programs = Counting()
    bursts = started([16, 16, 16], on_their_own=on_their_own, programs=programs)
    next(bursts), next(bursts)
    bursts.send(np.array([True, False, False]))
    bursts.send(np.array([False, True, False]))
    bursts.send(None)
    assert programs.stopped[-1] == [True, True, False]
    with pytest.raises(StopIteration):
        bursts.send(np.array([False, False, True]))


def test_rows_of_both_lanes_end_where_the_host_says_so(on_their_own):
    """Another row's answer would be cut, and the one that met its stop string would go on."""
    bursts = started([6, 9, 12, 5], on_their_own=on_their_own, programs=Counting())
    first = next(bursts)
    assert not first.num_tokens.any() and first.output.shape == (4, 16)
    reports, stop = [next(bursts)], np.array([False, False, True, False])
    while True:
        try:
            reports.append(bursts.send(stop if len(reports) == 1 else None))
        except StopIteration as end:
            state = end.value
            break
    last = reports[-1]
    assert last.num_tokens[[0, 1, 3]].tolist() == [6, 9, 5] and 0 < last.num_tokens[2] < 9
    for row, count in enumerate(last.num_tokens):
        assert last.output[row, :count].tolist() == [10 + row] * count and not last.output[row, count:].any()
    for before, after in zip(reports, reports[1:], strict=False):
        assert (before.num_tokens <= after.num_tokens).all()
    np.testing.assert_array_equal(state.newest[:, 0], [10, 11, 12, 13])


def test_a_row_that_only_fills_the_batch_keeps_nobody_waiting(on_their_own):
    """Its budget is 0: it is over before the first step."""
    reports = list(started([3, 0], on_their_own=on_their_own, programs=Counting()))
    assert reports[-1].num_tokens.tolist() == [3, 0] and reports[-1].done.all()


@pytest.mark.parametrize("found, model", [(TARGET, "target"), (DRAFTER, "drafter"), (TARGET | DRAFTER, "target")])
def test_numbers_that_are_not_finite_end_the_run(on_their_own, found, model):
    """Token 0 for ever, and a status of success, is what a broken checkpoint gave."""
    programs = Counting()
    bursts = started([16, 16], on_their_own=on_their_own, programs=programs)
    next(bursts), next(bursts)
    programs.not_finite = found
    with pytest.raises(NotFinite, match=f"the {model} computes numbers that are not finite") as error:
        for _ in bursts:
            pass
    assert error.value.model == model and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 300])
def test_a_new_program_runs_once_before_the_clock_starts(on_their_own, size):
    """However many programs are kept: with as many as fit, a new one takes another one's place."""
    runs = {}
    for known in (True, False):
        programs = Counting(known, size)
        next(started([4], on_their_own=on_their_own, programs=programs))
        runs[known] = programs.log
    if on_their_own:
        assert runs == {True: ["first_draft"], False: ["first_draft", "verify_draft", "next_draft"]}
    else:
        assert runs == {True: [], False: ["burst"]}


def test_running_a_new_program_counts_as_compiling():
    """What XLA sets up in a first execution is not decoding, and the reported seconds leave it out."""
    programs = Counting(known=False)
    next(started([4], on_their_own=False, programs=programs))
    assert programs.compile_seconds > 0


def test_a_new_program_runs_one_step_and_leaves_the_answer_alone():
    """A whole burst before the clock starts is seconds of waiting that set up nothing; on the state itself it would be
    an answer without its first tokens."""
    rooms = []

    class Watching(Counting):
        def get(self, *args, **kwargs):
            run = super().get(*args, **kwargs)

            def watched(*given):
                rooms.append(np.asarray(given[-1].budget - given[-1].num_tokens).tolist())
                return run(*given)

            watched.measured = run.measured
            return watched

    bursts = started([4, 7, 0], on_their_own=False, programs=Watching(known=False))
    assert not next(bursts).num_tokens.any() and rooms == [[1, 1, 0]]
    assert list(bursts)[-1].num_tokens.tolist() == [4, 7, 0] and rooms[1] == [4, 7, 0]
