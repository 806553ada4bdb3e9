"""The length rule: drafts where they pay, none where they lose, and saying so."""

import dataclasses
import types

import numpy as np
import pytest

from rapid_jax.config import SpeculationConfig, get_method
from rapid_jax.engine import length_rule
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.speculation import StepSeconds


@pytest.fixture
def priced(monkeypatch, engine):
    """Sets what a step costs, instead of a clock, and forgets what was seen."""
    measured = []

    def price(**costs):
        engine.session.step_costs.clear()
        engine.session.acceptance_seen.clear()
        measured.clear()

        def measure(*args, **kwargs):
            measured.append(args)
            return StepSeconds(**costs)

        monkeypatch.setattr(length_rule, "measure_step_seconds", measure)
        return measured

    yield price
    engine.session.step_costs.clear()
    engine.session.acceptance_seen.clear()


def test_cheap_drafts_are_made(document, questions, priced):
    """A target that costs a hundred drafts: nothing changes but what is said about it."""
    priced(plain=1.0, draft=0.01)
    answer = document.ask(questions[0], "sd", length_rule=True)
    plain = document.ask(questions[0], "sd")
    assert answer.token_ids == plain.token_ids and answer.acceptance == plain.acceptance
    assert answer.settings["decision"]["gamma"] == 4 and answer.settings["decision"]["speed_up"] > 1


def test_drafts_that_lose_are_not_made_and_that_is_said(document, questions, priced, caplog):
    """The same tokens as plain decoding, one a step, and one line that gives the figures."""
    priced(plain=1.0, draft=2.0)
    answer = document.ask(questions[0], "rapid", length_rule=True)
    assert answer.method == "rapid"
    assert answer.token_ids == document.ask(questions[0], "lc").token_ids
    assert answer.acceptance.proposed == 0 and answer.acceptance.steps == len(answer.token_ids)
    assert answer.settings["gamma"] == 0 and answer.settings["eta"] == 0.0
    assert "rapid drafts nothing at" in caplog.text and "times the speed of none" in caplog.text


@pytest.mark.slow
def test_gamma_is_chosen_by_the_costs(document, questions, priced):
    """Dear drafts are short, cheap ones long; the tokens of a lossless method stay."""
    priced(plain=1.0, draft=0.3)
    short = document.ask(questions[0], "sd", choose_gamma=True)
    priced(plain=1.0, draft=0.001)
    long = document.ask(questions[0], "sd", choose_gamma=True)
    assert short.settings["gamma"] < long.settings["gamma"] == 16
    assert short.token_ids == long.token_ids == document.ask(questions[0], "lc").token_ids


def test_acceptance_is_learned_from_answers(engine, document, questions, priced):
    """What was expected holds until there is an answer; costs of one size are measured once."""
    measured = priced(plain=1.0, draft=0.01)
    first = document.ask(questions[0], "sd", length_rule=True, expected_acceptance=0.6)
    second = document.ask(questions[0], "sd", length_rule=True, expected_acceptance=0.6)
    assert first.settings["decision"]["acceptance"] == 0.6
    assert second.settings["decision"]["acceptance"] == first.acceptance.accepted / first.acceptance.tested
    assert len(measured) == 1


def sized(capacity=2048, rows=1, length=1500):
    """What a target has read, by its size alone."""
    cache = types.SimpleNamespace(capacity=capacity, k=[np.zeros((rows, 1))])
    return PrefilledContext([[0] * length] * rows, cache, 0.0)


def test_costs_are_those_of_the_batch_at_hand(engine, priced):
    """Costs of one row, of a short document or of another drafter would decide wrongly, and for every answer to come."""
    measured, session = priced(plain=1.0, draft=0.5), engine.session
    method, speculation = get_method("sd"), SpeculationConfig(length_rule=True)
    usual = dict(context=sized(), passages=250, rows=1)

    def ask(session=session, **change):
        length_rule.decide(session, method, speculation, **{**usual, **change})
        return len(measured)

    assert ask() == ask() == 1
    assert ask(passages=251) == ask(context=sized(length=1499)) == 1, "sizes of one bucket cost the same"
    assert ask(rows=2) == 2
    assert ask(rows=2, context=sized(rows=2)) == 3, "a document that rows share is read once"
    assert ask(context=sized(capacity=4096)) == 4
    assert ask(passages=257) == 5
    other = dataclasses.replace(session, drafter=dataclasses.replace(session.drafter))
    assert ask(session=other) == 6
    assert ask() == ask(rows=2) == ask(passages=257) == 6, "none of them took another one's place"
    assert [call[-2:] for call in measured[:2]] == [(250, 1), (250, 2)] and measured[-1][3] is other.drafter


def test_a_draft_that_gains_nothing_is_not_made(engine, priced):
    """At a speed-up of exactly 1 drafts only cost memory; a gamma that is not chosen is the one that was asked for."""
    session, method = engine.session, get_method("sd")
    for draft, gamma in ((0.5, 0), (0.49, 1)):  # one drafted token, accepted half of the time: 1.5 / (1 + draft)
        priced(plain=1.0, draft=draft)
        speculation = SpeculationConfig(gamma=1, length_rule=True, expected_acceptance=0.5)
        decision = length_rule.decide(session, method, speculation, sized(), 250, 1)
        assert (decision.gamma, decision.acceptance) == (gamma, 0.5)
        assert decision.speed_up == pytest.approx(1.5 / (1 + draft))
        told = decision.applied_to(method, speculation)
        assert told == ((method, speculation) if gamma else (method.without_drafts, speculation))
    priced(plain=1.0, draft=5.0)
    kept = length_rule.decide(session, method, SpeculationConfig(choose_gamma=True), sized(), 250, 1)
    assert kept.gamma == 1 and kept.speed_up < 1, "only the length rule may turn drafts off"


@pytest.mark.slow
def test_methods_without_a_drafting_model_are_left_alone(document, questions, priced):
    """lc, rag and databases have no such costs."""
    measured = priced(plain=1.0, draft=5.0)
    for method in ("lc", "rag", "hd", "sd+hd"):
        assert "decision" not in document.ask(questions[0], method, length_rule=True).settings
    assert not measured


def test_costs_are_measured_on_the_models_at_hand(engine, document, questions):
    """A real clock: positive costs, and a wide forward that is at least as dear as a narrow one."""
    engine.session.step_costs.clear()
    costs = document.ask(questions[0], "sd", length_rule=True, expected_acceptance=1.0).settings["decision"]["costs"]
    assert costs["plain"] > 0 and costs["draft"] > 0 and costs["row"] >= 0


def test_bad_settings_are_refused_in_one_line():
    """By name, with what would be right."""
    with pytest.raises(ValueError, match="length_rule must be True or False, got 1"):
        SpeculationConfig(length_rule=1)
    with pytest.raises(ValueError, match="expected_acceptance must be in .0, 1., got 1.5"):
        dataclasses.replace(SpeculationConfig(), expected_acceptance=1.5)
