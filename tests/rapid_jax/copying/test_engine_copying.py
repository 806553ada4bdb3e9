"""`copy` through the engine: lossless at every draft length, and it learns from earlier answers."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.config import CopyingConfig
from rapid_jax.copying import trust
from rapid_jax.copying.drafter import CopiedBefore, empty_memory
from rapid_jax.decoding import loop
from rapid_jax.decoding.drafter import Pace
from rapid_jax.engine.engine import Engine
from tests.marks import slow

LENGTHS = (2, 5)


def reconfigured(engine, **fields):
    """The engine with other settings of copies, sharing its weights and programs."""
    config = dataclasses.replace(engine.config, copying=CopyingConfig(**fields))
    other = Engine(dataclasses.replace(engine.session, config=config))
    other.session.programs = engine.session.programs
    return other


@pytest.fixture(scope="module")
def copying(engine):
    return reconfigured(engine, lengths=LENGTHS, earlier_answers=0)


@pytest.fixture
def costs(monkeypatch):
    """Sets what steps cost, which a clock would say otherwise."""

    def told(*costs, pinned=-1):
        pace = Pace(jnp.array(costs, jnp.float32), jnp.int32(pinned))

        def with_costs(run, args):
            return pace if isinstance(args[2], Pace) else (pace, *args[2][1:])

        monkeypatch.setattr(loop, "with_costs", with_costs)

    return told


@pytest.mark.parametrize("temperature", [slow(0.0), 1.0])
@pytest.mark.parametrize("pinned", [slow(0), slow(1), 2, -1])
def test_copies_are_lossless(copying, costs, document_text, questions, temperature, pinned):
    """The tokens of plain decoding, greedy and sampled with the same seed, at each draft length and at a chosen one."""
    costs(1.0, 1.1, 1.2, pinned=pinned)
    document = copying.read(document_text)
    settings = dict(temperature=temperature, seed=7)
    plain = copying.ask_many(document, questions, "lc", **settings)
    drafted = copying.ask_many(document, questions, "copy", **settings)
    assert [a.token_ids for a in drafted] == [a.token_ids for a in plain]
    longest = {0: 0, 1: 2, 2: 5, -1: 5}[pinned]
    for answer in drafted:
        counts = answer.acceptance
        assert sum(counts.by_source.values()) == counts.accepted <= counts.proposed <= longest * counts.steps
    assert (sum(a.acceptance.accepted for a in drafted) > 0) == (pinned != 0)


def test_nothing_is_drafted_where_drafts_cost_too_much(copying, costs, document_text):
    """A row of a verification may cost as much as a step."""
    costs(1.0, 3.0, 6.0)
    answer = copying.read(document_text).ask("Who keeps the kettle?", "copy")
    assert answer.acceptance.proposed == 0 and answer.acceptance.steps == len(answer.token_ids)


def test_costs_are_measured_once_a_program(copying, document_text):
    """Three paces, the first of them the unit."""
    document = copying.read(document_text)
    answers = [document.ask("Who keeps the kettle?", "copy") for _ in range(2)]
    found = [p.measured["costs"] for p in copying.session.programs.compiled.values() if "costs" in p.measured]
    measured = [costs for costs in found if costs.shape == (3,)]  # other tests ask methods with other paces
    assert measured and all(costs[0] == 1 and (costs > 0).all() for costs in measured)
    assert answers[0].token_ids == answers[1].token_ids
    settings = answers[0].settings["copying"]
    assert settings == dict(lengths=list(LENGTHS), places=8, earlier_answers=0) and answers[0].settings["gamma"] == 5
    assert json.loads(json.dumps(answers[0].settings)) == answers[0].settings, "as a result that is read again"
    assert answers[0].database_bytes["copied text"] > 0


def test_an_earlier_answer_is_copied(engine, costs, document_text):
    """Asked again, a question is answered in a fraction of the steps, and the answer says where its tokens come from."""
    costs(1.0, 1.1, 1.2)
    remembering = reconfigured(engine, lengths=LENGTHS, earlier_answers=100)
    document = remembering.read(document_text)
    first = document.ask("Who keeps the kettle?", "lc", max_new_tokens=32)
    again = document.ask("Who keeps the kettle?", "copy", max_new_tokens=32)
    assert again.token_ids == first.token_ids
    counts = again.acceptance
    assert counts.steps < 0.5 * first.acceptance.steps and counts.by_source["earlier answers"] > 0
    assert document.copied_before.shown is not None
    forgetful = reconfigured(engine, lengths=LENGTHS, earlier_answers=0).read(document_text)
    forgetful.ask("Who keeps the kettle?", "lc", max_new_tokens=32)
    assert forgetful.copied_before.tokens == ()


def test_earlier_answers_are_bounded_and_the_oldest_tokens_go():
    """A document that is asked for weeks must not grow without end."""
    before = CopiedBefore()
    for start in range(0, 30, 3):
        before = before.after([[start, start + 1], [start + 2]], None, 5, began=before)
    assert before.tokens == (25, 26, 27, 28, 29) and before.shown is None


def test_answers_that_are_given_at_the_same_time_are_counted_each_for_itself():
    """Two streams about one document: the second to end began with what was known before the first one ended."""
    new, classes = CopiedBefore(), len(trust.LEAST)

    def ended(before, right, seen):
        memory = empty_memory(1, 8)
        counts = (
            jnp.asarray(start + more)[None]
            for start, more in zip(trust.initial(before.shown), (right, seen), strict=True)
        )
        return dataclasses.replace(memory, trust=trust.Trust(*counts))

    first = new.after([[1]], ended(new, np.full(classes, 30.0), np.full(classes, 40.0)), 9, began=new)
    both = first.after([[2]], ended(new, np.full(classes, 1.0), np.full(classes, 5.0)), 9, began=new)
    later = both.after([[3]], ended(both, np.full(classes, 2.0), np.full(classes, 3.0)), 9, began=both)
    for found, (right, seen) in ((first, (30, 40)), (both, (31, 45)), (later, (33, 48))):
        np.testing.assert_allclose(found.shown, np.array([[right] * classes, [seen] * classes]), rtol=1e-5)
    assert later.tokens == (1, 2, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(lengths=()), r"lengths must be growing whole numbers of at least 1, got \(\)"),
        (dict(lengths=(4, 4)), "must be growing"),
        (dict(lengths=(0, 4)), "must be growing"),
        (dict(lengths=[4]), "must be growing"),
        (dict(lengths=(10**6,)), "lengths must be at most"),
        (dict(places=0), "places must be at least 1, got 0"),
        (dict(earlier_answers=-1), "earlier_answers must be at least 0 tokens, got -1"),
    ],
)
def test_settings_are_checked(fields, message):
    """One line, before anything is loaded."""
    with pytest.raises(ValueError, match=message):
        CopyingConfig(**fields)
