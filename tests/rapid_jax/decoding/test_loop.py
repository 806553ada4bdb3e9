"""The host's side: one read a burst, no copies of the context, rows that the host ends."""

import dataclasses

import jax
import numpy as np
import pytest

from models.cache import empty_context, empty_tail
from rapid_jax.decoding.loop import initial_state
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.step import burst


class CountingPrograms(Programs):
    """Counts how often an executable is started."""

    starts = 0

    def get(self, *args, **kwargs):
        run = super().get(*args, **kwargs)

        def counted(*arrays):
            self.starts += 1
            return run(*arrays)

        counted.measured = run.measured
        return counted


@pytest.fixture(scope="module")
def spec(lab):
    return lab.spec()


@pytest.mark.slow
def test_the_host_reads_once_a_burst(lab, spec, monkeypatch):
    """Every further read would stall the device; burst n + 1 runs before burst n is read."""
    started = lab.start(spec, lab.questions)
    lab.run(spec, lab.questions)  # compiled
    reads = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: reads.append(counting.starts) or device_get(x))
    counting = CountingPrograms(compiled=lab.programs.compiled)
    monkeypatch.setattr(lab, "programs", counting)
    reports = list(lab.bursts(spec, started, burst_steps=4))
    assert len(reports) > 2
    assert reads == [0, *range(2, len(reports) + 1)], "a report is read while the next burst runs"


def test_the_first_report_is_of_before_any_step(lab, spec):
    """The clock starts behind compilation: nothing may have been decoded by then."""
    first = next(lab.bursts(spec, lab.start(spec, lab.questions)))
    assert not first.num_tokens.any() and not first.done.any()


def test_reports_only_grow(lab, spec):
    """Streaming shows what a report holds: later ones may not take anything back, nor share its memory."""
    reports = list(lab.bursts(spec, lab.start(spec, lab.questions), burst_steps=4))
    for before, after in zip(reports, reports[1:], strict=False):
        assert (before.num_tokens <= after.num_tokens).all()
        for row, count in enumerate(before.num_tokens):
            np.testing.assert_array_equal(before.output[row, :count], after.output[row, :count])
    assert reports[-1].done.all() and (reports[-1].num_tokens == 16).all()


def test_rows_that_the_host_ends_stop_after_the_burst_in_flight(lab, spec):
    """A stop string ends its row alone; the rest of the batch goes on."""
    expected = lab.tokens(spec, lab.questions)
    bursts = lab.bursts(spec, lab.start(spec, lab.questions), burst_steps=1)
    next(bursts)
    reports = [bursts.send(None), bursts.send(np.array([True, False, False, False]))]
    while True:
        try:
            reports.append(bursts.send(None))
        except StopIteration:
            break
    last = reports[-1]
    assert last.num_tokens[0] == reports[2].num_tokens[0] < 16 and (last.num_tokens[1:] == 16).all()
    for row, tokens in enumerate(expected):
        assert last.output[row, : last.num_tokens[row]].tolist() == tokens[: last.num_tokens[row]]


def test_a_batch_that_the_host_ends_is_over(lab, spec):
    """Nothing more is decoded once every row has met its stop string."""
    bursts = lab.bursts(spec, lab.start(spec, lab.questions), burst_steps=1)
    next(bursts)
    next(bursts)
    with pytest.raises(StopIteration):
        bursts.send(np.ones(4, bool))


def test_the_state_is_donated_and_the_contexts_are_not(lab, spec):
    """A second question needs the contexts; a state that stayed would be copied in every burst."""
    started = lab.start(spec, lab.questions)
    context, (_, passage), state = started
    kept = jax.tree.leaves((lab.target.params, context, passage))
    list(lab.bursts(spec, started))
    assert not any(x.is_deleted() for x in kept)
    assert all(x.is_deleted() for x in (*state.target_tail.k, *state.target_tail.v, *state.drafter_cache.k))


def test_decoding_copies_neither_the_context_nor_the_state(lab, make_small_model):
    """A copy of a 128K-token context in every burst would cost more than the step; the tails are written in place."""
    model = make_small_model(6, head_dim=64)
    spec = dataclasses.replace(lab.spec(gamma=2, drafter=model), target=model.decoder)
    config = model.decoder.config
    context, passage = (empty_context(config, 1, slots, np.float32) for slots in (32_768, 16_384))
    tails = [empty_tail(config, 1, 64, np.float32) for _ in range(2)]
    budget = np.array([4], np.int32)
    state = initial_state(np.zeros((1, 2), np.int32), *tails, budget=budget, capacity=16, seed=0)
    args = (model.params, context, (model.params, passage), spec.controls(), state.done, state)
    args = jax.tree.map(jax.numpy.asarray, args)
    analysis = Programs().get(burst, (spec, 4), args, donate=(5,)).executable.memory_analysis()
    donated = sum(x.nbytes for tail in tails for x in jax.tree.leaves(tail)) + state.output.nbytes
    smallest = min(passage.k[0].nbytes, context.k[0].nbytes)
    assert analysis.alias_size_in_bytes >= donated
    assert analysis.temp_size_in_bytes < smallest / 2
