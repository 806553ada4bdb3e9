"""Methods that look drafts up, through the engine: lossless, bounded, and said when a database is missing."""

import dataclasses

import pytest

from rapid_jax.config import HierarchyConfig
from rapid_jax.config.methods import METHODS
from rapid_jax.engine.engine import Engine
from tests.marks import slow


def reconfigured(engine, hierarchy):
    """The engine with other databases, sharing its weights and programs."""
    other = Engine(dataclasses.replace(engine.session, config=dataclasses.replace(engine.config, hierarchy=hierarchy)))
    other.session.programs = engine.session.programs
    return other


@pytest.fixture(scope="module")
def looking_up(engine):
    """The engine with small databases of its own text, and none that must be built first."""
    return reconfigured(engine, HierarchyConfig(candidates=3, length=4, ngram=3, window=3))


@pytest.mark.parametrize("method", ["hd", slow("pld"), slow("lookahead")])
@pytest.mark.parametrize("temperature", [slow(0.0), 1.0])
def test_databases_are_lossless(looking_up, document_text, questions, method, temperature):
    """The tokens of plain decoding, greedy and sampled with the same seed; a near-tie would show here as well."""
    document = looking_up.read(document_text)
    settings = dict(temperature=temperature, seed=7)
    plain = looking_up.ask_many(document, questions, "lc", **settings)
    drafted = looking_up.ask_many(document, questions, method, **settings)
    assert [a.token_ids for a in drafted] == [a.token_ids for a in plain]
    for answer in drafted:
        counts = answer.acceptance
        assert sum(counts.by_source.values()) == counts.accepted and answer.settings["gamma"] in (4, 10)
    assert sum(a.acceptance.accepted for a in drafted) > 0
    assert set(drafted[0].database_bytes) == {"pld": {"history"}}.get(method, {"context"})


@pytest.mark.slow
def test_the_drafter_drafts_the_same_with_databases(looking_up, document_text, questions):
    """rapid+hd is rapid in fewer forwards: never in other tokens."""
    document = looking_up.read(document_text)
    plain = looking_up.ask_many(document, questions, "rapid", eta=5.0)
    assisted = looking_up.ask_many(document, questions, "rapid+hd", eta=5.0)
    assert [a.token_ids for a in assisted] == [a.token_ids for a in plain]
    forwards = [sum(a.acceptance.drafter_forwards for a in answers) for answers in (assisted, plain)]
    assert 0 < forwards[0] <= forwards[1]
    assert assisted[0].settings["hierarchy"]["databases"] == ["context"]


def test_a_database_that_is_not_there_is_named(looking_up, document_text):
    """rest asks nothing but a corpus: without one there is nothing to draft from."""
    with pytest.raises(ValueError, match=r"make one with launch.build_database and name it in hierarchy.statistics_da"):
        looking_up.require([METHODS["rest"]])
    with pytest.raises(ValueError, match="there is no database to ask"):
        looking_up.read(document_text, prefill=False).ask("Who keeps the kettle?", "rest")


def test_databases_are_bounded_by_the_configuration(engine, document_text):
    """A table over a large vocabulary must not take the device's memory unasked."""
    bounded = reconfigured(engine, HierarchyConfig(device_bytes=1000))
    with pytest.raises(ValueError, match=r"the context database takes [\d,]+ bytes on the device, .* allows 1,000"):
        bounded.read(document_text).ask("Who keeps the kettle?", "hd")


@pytest.mark.parametrize(
    "option",
    [slow(dict(early_stop=True)), slow(dict(stop_confidence=0.5)), slow(dict(first_candidates=2, residual="exact"))],
)
def test_options_of_the_drafter_alone(looking_up, document_text, questions, option):
    """sd takes them and stays lossless; a drafter with databases refuses what it cannot do."""
    document = looking_up.read(document_text)
    plain = looking_up.ask_many(document, questions, "lc")
    drafted = looking_up.ask_many(document, questions, "sd", **option)
    assert [a.token_ids for a in drafted] == [a.token_ids for a in plain]
    usual = looking_up.ask_many(document, questions, "sd")
    proposed = [sum(a.acceptance.proposed for a in answers) / sum(a.acceptance.steps for a in answers)
                for answers in (drafted, usual)]  # fmt: skip
    assert proposed[0] != proposed[1], "the option must reach the drafter"
    with pytest.raises(ValueError, match=f"sd.hd does not take {next(iter(option))}: ask sd"):
        looking_up.ask_many(document, questions, "sd+hd", **option)
