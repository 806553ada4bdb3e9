"""The length rule: drafts where they pay, none where they lose, and saying so."""

import dataclasses
import types

import numpy as np
import pytest

from rapid_jax.config import SpeculationConfig, get_method
from rapid_jax.engine import length_rule
from rapid_jax.engine.contexts import PrefilledContext
from rapid_jax.speculation import AcceptanceRecord, StepSeconds
from tests.marks import slow


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
            return StepSeconds(**costs), 0.0

        monkeypatch.setattr(length_rule, "measure_step_seconds", measure)
        return measured

    yield price
    engine.session.step_costs.clear()
    engine.session.acceptance_seen.clear()


def test_cheap_drafts_are_made(document, questions, priced):
    """A target that costs a hundred drafts: nothing changes but what is said about it."""
    priced(plain=1.0, draft=0.01)
    answer = document.ask(questions[0], "sd", length_rule="lossless")
    plain = document.ask(questions[0], "sd")
    assert answer.token_ids == plain.token_ids and answer.acceptance == plain.acceptance
    assert answer.settings["decision"]["gamma"] == 4 and answer.settings["decision"]["speed_up"] > 1


def test_drafts_that_lose_are_not_made_and_that_is_said(document, questions, priced, caplog):
    """The same tokens as plain decoding, one a step, and one line that gives the figures."""
    priced(plain=1.0, draft=2.0)
    answer = document.ask(questions[0], "rapid", length_rule="all")
    assert answer.method == "rapid"
    assert answer.token_ids == document.ask(questions[0], "lc").token_ids
    assert answer.acceptance.proposed == 0 and answer.acceptance.steps == len(answer.token_ids)
    assert answer.settings["gamma"] == 0 and answer.settings["eta"] == 0.0
    assert "rapid drafts nothing at" in caplog.text and "times the speed of none" in caplog.text


OWN = ("magicdec", "pages")


@pytest.mark.parametrize("method", ["sd", *map(slow, OWN)])
def test_lossless_drafts_that_lose_are_not_made_by_default(document, questions, priced, method):
    """Whatever the drafting model reads; the answer is that of `lc`, greedy and sampled."""
    priced(plain=1.0, draft=2.0)
    default = SpeculationConfig().length_rule
    for sampling in (dict(), dict(temperature=1.0, seed=3)):
        answer = document.ask(questions[0], method, length_rule=default, **sampling)
        assert answer.acceptance.proposed == 0 and answer.settings["gamma"] == 0
        assert answer.token_ids == document.ask(questions[0], "lc", **sampling).token_ids
    priced(plain=1.0, draft=0.01)
    assert document.ask(questions[0], method, length_rule=default).acceptance.proposed


def test_what_would_answer_differently_drafts_by_default(document, questions, priced):
    """`rapid` without drafts is another method, unless nothing is transferred; `none` decides about nothing."""
    measured = priced(plain=1.0, draft=2.0)
    rapid = get_method("rapid")
    assert not length_rule.decides(rapid, SpeculationConfig())
    assert length_rule.decides(rapid, SpeculationConfig(eta=0))
    assert length_rule.decides(rapid, SpeculationConfig(length_rule="all"))
    assert not length_rule.decides(get_method("sd"), SpeculationConfig(length_rule="none"))
    assert document.ask(questions[0], "rapid", length_rule="lossless").acceptance.proposed
    assert not measured


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
    first = document.ask(questions[0], "sd", length_rule="all", expected_acceptance=0.6)
    second = document.ask(questions[0], "sd", length_rule="all", expected_acceptance=0.6)
    assert first.settings["decision"]["acceptance"] == 0.6
    record = AcceptanceRecord(first.acceptance.accepted, first.acceptance.tested)
    assert second.settings["decision"]["acceptance"] == record.share(0.6) != 0.6
    assert len(measured) == 1


def test_an_answer_counts_once(engine, document, questions, priced):
    """However often it is read."""
    priced(plain=1.0, draft=0.01)
    stream = document.stream(questions[0], "sd")
    "".join(stream)
    tested = [stream.answer.acceptance.tested for _ in range(3)]
    (record,) = engine.session.acceptance_seen.values()
    assert record.tested == tested[0] > 0


def test_records_of_other_laws_are_apart():
    """What `rapid` keeps with a transfer says nothing of what it keeps without, nor a wide window of a narrow one."""
    rapid, magicdec, settings = get_method("rapid"), get_method("magicdec"), SpeculationConfig()

    def key(method, **change):
        return length_rule.record_key(method, dataclasses.replace(settings, **change))

    assert key(rapid) == key(rapid, gamma=3, window=512) != key(rapid, eta=0)
    assert key(magicdec) == key(magicdec, eta=0) != key(magicdec, window=512)


def test_drafts_come_back(engine, document, questions, priced):
    """One bad answer must not end drafts for ever: what was seen is forgotten while nothing is drafted."""
    priced(plain=1.0, draft=0.2)
    key = length_rule.record_key(get_method("sd"), engine.config.speculation)
    engine.session.acceptance_seen[key] = AcceptanceRecord(0, 200)
    drafted = [bool(document.ask(questions[0], "sd", length_rule="all").acceptance.proposed) for _ in range(8)]
    assert drafted[0] is False and any(drafted)


def sized(capacity=2048, rows=1, length=1500):
    """What a target has read, by its size alone."""
    cache = types.SimpleNamespace(capacity=capacity, k=[np.zeros((rows, 1))])
    return PrefilledContext([[0] * length] * rows, cache, 0.0)


def test_costs_are_those_of_the_batch_at_hand(engine, priced):
    """Costs of one row, of a short document or of another drafter would decide wrongly, and for every answer to come."""
    measured, session = priced(plain=1.0, draft=0.5), engine.session
    method, speculation = get_method("sd"), SpeculationConfig()
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
    assert [call[-1] for call in measured[:2]] == [1, 2] and measured[-1][3] is other.drafter
    assert {int(call[4].filled[0, 0]) for call in measured} == {250, 257}


def test_what_is_read_is_the_methods_own(engine, priced):
    """Passages by the drafter; a window, pages or the upper plane by the target, or by its copy of fewer bits."""
    measured, session = priced(plain=1.0, draft=0.5), engine.session
    speculation = SpeculationConfig(sinks=4, window=400, page_budget=700)
    for name, read in (("sd", 250), ("magicdec", 404), ("pages", 700)):
        length_rule.decide(session, get_method(name), speculation, sized(), 250, 2)
        _, model, _, drafter, context, rows = measured.pop()
        assert context.length.tolist() == [read] * 2 and rows == 2, name
        assert model is session.target and drafter is session.own_drafter
    planes = types.SimpleNamespace(**vars(sized().cache), upper="the upper plane")
    context = PrefilledContext([[0] * 1500], planes, 0.0)
    length_rule.decide(session, get_method("planes"), speculation, context, 0, 1)
    assert measured.pop()[4] == "the upper plane"


def test_pages_pay_for_their_choice(engine, priced):
    """One forward in `page_renewal` reads the whole context in the place of the pages."""
    priced(plain=1.0, draft=0.2)
    decision, _ = length_rule.decide(
        engine.session, get_method("pages"), SpeculationConfig(page_renewal=4), sized(), 0, 1
    )
    assert decision.costs.start == pytest.approx((1.0 - 0.2) / 4)


def test_a_draft_that_gains_nothing_is_not_made(engine, priced):
    """At a speed-up of exactly 1 drafts only cost memory; a gamma that is not chosen is the one that was asked for."""
    session, method = engine.session, get_method("sd")
    for draft, gamma in ((0.5, 0), (0.49, 1)):  # one drafted token, accepted half of the time: 1.5 / (1 + draft)
        priced(plain=1.0, draft=draft)
        speculation = SpeculationConfig(gamma=1, expected_acceptance=0.5)
        decision, _ = length_rule.decide(session, method, speculation, sized(), 250, 1)
        assert (decision.gamma, decision.acceptance) == (gamma, 0.5)
        assert decision.speed_up == pytest.approx(1.5 / (1 + draft))
        told = decision.applied_to(method, speculation)
        assert told == ((method, speculation) if gamma else (method.without_drafts, speculation))
    priced(plain=1.0, draft=5.0)
    speculation = SpeculationConfig(choose_gamma=True, length_rule="none")
    kept, _ = length_rule.decide(session, method, speculation, sized(), 250, 1)
    assert kept.gamma == 1 and kept.speed_up < 1, "only the length rule may turn drafts off"
    priced(plain=1.0, draft=0.001)
    narrow, _ = length_rule.decide(
        session, method, dataclasses.replace(speculation, gamma=4, window=9), sized(), 250, 1
    )
    assert narrow.applied_to(method, dataclasses.replace(speculation, gamma=4, window=9))[1].gamma == 8


@pytest.mark.slow
def test_methods_without_a_drafting_model_are_left_alone(document, questions, priced):
    """Plain decoding and databases have no such costs, copies decide in every step."""
    measured = priced(plain=1.0, draft=5.0)
    for method in ("lc", "rag", "hd", "sd+hd", "copy", "auto"):
        assert "decision" not in document.ask(questions[0], method, length_rule="all").settings
    assert not measured


def test_costs_are_measured_on_the_models_at_hand(engine, document, questions):
    """A real clock: positive costs, and a wide forward that is at least as dear as a narrow one."""
    engine.session.step_costs.clear()
    costs = document.ask(questions[0], "sd", length_rule="all", expected_acceptance=1.0).settings["decision"]["costs"]
    assert costs["plain"] > 0 and costs["draft"] > 0 and costs["row"] >= 0


def test_bad_settings_are_refused_in_one_line():
    """By name, with what would be right."""
    with pytest.raises(ValueError, match="length_rule must be one of lossless, all, none, got True"):
        SpeculationConfig(length_rule=True)
    with pytest.raises(ValueError, match="expected_acceptance must be in .0, 1., got 1.5"):
        dataclasses.replace(SpeculationConfig(), expected_acceptance=1.5)
