"""`auto` through the engine: lossless whichever source drafts, and the source that pays is taken."""

import dataclasses

import jax.numpy as jnp
import pytest

from rapid_jax.config import CopyingConfig
from rapid_jax.decoding import loop
from rapid_jax.decoding.drafter import Pace
from rapid_jax.engine.engine import Engine
from tests.marks import slow

NONE, COPIES, OWN = 0, (1, 2), 3  # ways to draft with these lengths and the engine's gamma of 4
LENGTHS, FREE = (2, 6), (1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def choosing(engine):
    """The engine that copies short drafts and keeps no earlier answers, sharing weights and programs."""
    config = dataclasses.replace(engine.config, copying=CopyingConfig(lengths=LENGTHS, earlier_answers=0))
    other = Engine(dataclasses.replace(engine.session, config=config))
    other.session.programs = engine.session.programs
    return other


@pytest.fixture
def costs(monkeypatch):
    """Sets what steps cost, which a clock would say otherwise."""

    def told(*costs, pinned=-1):
        pace = Pace(jnp.array(costs, jnp.float32), jnp.int32(pinned))
        monkeypatch.setattr(loop, "with_costs", lambda run, args: (pace, *args[2][1:]))

    return told


@pytest.mark.parametrize("temperature", [slow(0.0), 1.0])
@pytest.mark.parametrize("pinned", [slow(NONE), slow(COPIES[0]), slow(COPIES[1]), OWN, -1])
def test_every_source_is_lossless(choosing, costs, document_text, questions, temperature, pinned):
    """The tokens of plain decoding, greedy and sampled with the same seed, also where the sources take turns."""
    costs(1.0, 1.1, 1.2, 1.3, pinned=pinned)
    document = choosing.read(document_text)
    settings = dict(temperature=temperature, seed=7)
    plain = choosing.ask_many(document, questions, "lc", **settings)
    drafted = choosing.ask_many(document, questions, "auto", **settings)
    assert [a.token_ids for a in drafted] == [a.token_ids for a in plain]
    for answer in drafted:
        counts = answer.acceptance
        assert sum(counts.by_source.values()) == counts.accepted
        assert counts.drafter_forwards == (2 * counts.steps if pinned == OWN else 0) or pinned == -1
    if pinned == OWN:
        kept = sum(a.acceptance.by_source["own cache"] for a in drafted)
        assert kept > 0 and kept == sum(a.acceptance.accepted for a in drafted)


@pytest.mark.parametrize(
    ("told", "taken"),
    [((1.0, 9.0, 9.0, 1.1), "own cache"), ((1.0, 1.0, 1.0, 9.0), "copies"), ((1.0, 9.0, 9.0, 9.0), "nothing")],
)
def test_the_cheapest_source_drafts(choosing, costs, document_text, told, taken):
    """Costs decide where all sources are as good as expected."""
    costs(*told)
    answer = choosing.read(document_text).ask("Who keeps the kettle?", "auto")
    counts = answer.acceptance
    assert (counts.drafter_forwards > 0) == (taken == "own cache")
    assert (counts.proposed > 0) == (taken != "nothing")


def test_own_drafts_that_are_seldom_right_are_given_up(choosing, costs, document_text):
    """A source that looks cheap and never hits would slow every step down; a page or two see nothing."""
    costs(1.0, 9.0, 9.0, 2.2)
    settings = dict(temperature=1.0, seed=3, page_size=1, page_budget=2, page_renewal=100)
    counts = choosing.read(document_text).ask("Who keeps the kettle?", "auto", **settings).acceptance
    assert 0 < counts.drafter_forwards < 2 * counts.steps, "two forwards a draft"
    assert counts.accepted < counts.proposed


def test_costs_are_measured_for_every_way(choosing, document_text):
    """One for none, one for each length of copies and of own drafts."""
    document = choosing.read(document_text)
    answer = document.ask("Who keeps the kettle?", "auto")
    measured = [p.measured["costs"] for p in choosing.session.programs.compiled.values() if "costs" in p.measured]
    assert any(len(costs) == 1 + len(LENGTHS) + 1 and costs[0] == 1 for costs in measured)
    assert answer.token_ids == document.ask("Who keeps the kettle?", "lc").token_ids
    assert {"page_size", "page_budget", "page_renewal", "copying"} <= set(answer.settings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(early_stop=True), "auto does not take early_stop: ask pages or set it to False"),
        (dict(first_candidates=2, residual="exact"), "auto does not take first_candidates: ask pages"),
    ],
)
def test_what_auto_cannot_do_is_refused(choosing, document_text, fields, message):
    """Before anything is decoded."""
    with pytest.raises(ValueError, match=message):
        choosing.read(document_text).ask("Who keeps the kettle?", "auto", **fields)
