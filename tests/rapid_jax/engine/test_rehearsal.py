"""Programs compiled ahead: a question then compiles nothing, and the rehearsal leaves nothing else behind."""

import dataclasses

import pytest

from rapid_jax.decoding.programs import Programs
from rapid_jax.engine import length_rule
from rapid_jax.engine.engine import Engine
from tests.marks import slow

DRAFTED = ("lc", "rapid")
METHODS = ("lc", "rag", "sd", "rapid", "magicdec", "pages", "copy", "auto", "hd", "sd+hd")


@pytest.fixture
def fresh(engine):
    """An engine with the same models that has compiled nothing."""

    def make(**settings):
        config = dataclasses.replace(engine.config, **settings)
        own = dict(programs=Programs(), passages={}, together={}, step_costs={}, acceptance_seen={}, config=config)
        return Engine(dataclasses.replace(engine.session, **own))

    return make


@pytest.mark.parametrize("methods", [DRAFTED, slow(METHODS)])
def test_nothing_is_left_to_compile(fresh, document, document_text, questions, methods):
    """Neither for the document nor for an answer, and answers are what they are without it."""
    engine = fresh()
    own, programs = engine.read(document_text, prefill=False), engine.session.programs
    engine.compile(own, questions[0], methods)
    assert not own.is_read and not engine.session.passages, "only what was really read may be kept"
    count = programs.count
    answers = [own.ask(questions[0], method) for method in methods]
    assert programs.count == count > len(methods)
    for method, answer in zip(methods, answers, strict=True):
        assert answer.token_ids == document.ask(questions[0], method).token_ids


def test_a_document_behind_turns_is_not_read_either(fresh, document_text, questions):
    """Compiling for a conversation must not read the document with the programs that it waits for."""
    engine = fresh()
    own = engine.read(document_text, prefill=False)
    behind = own.after([dict(role="user", content="Who?"), dict(role="assistant", content="Odan.")])
    engine.compile(behind, questions[0], ["lc"])
    assert not own.is_read
    count = engine.session.programs.count
    behind.ask(questions[0], "lc")
    assert engine.session.programs.count == count > 1


@pytest.mark.slow
def test_narrow_keys_and_a_document_that_has_been_read(fresh, document_text, questions):
    """The cache that is rounded is another program's; what has been read is not compiled for again."""
    engine = fresh(kv="int8")
    own = engine.read(document_text)
    count = engine.session.programs.count
    engine.compile(own, questions[0], ["lc"])
    assert engine.session.programs.count == count + 2, "the question and the burst"
    own.ask(questions[0], "lc")
    assert engine.session.programs.count == count + 2


def test_what_decides_about_drafts_is_measured_ahead_too(fresh, document_text, questions, monkeypatch):
    """Before other threads compile, over caches as full as they will be; only what was decided is compiled."""
    measure, seen = length_rule.measure_step_seconds, []
    for price, drafts in ((5.0, False), (0.01, True)):

        def measured(programs, target, context, *args, price=price):
            seen.append((programs.count, int(context.filled[0, 0])))
            costs, seconds = measure(programs, target, context, *args)
            return dataclasses.replace(costs, plain=1.0, draft=price), seconds

        monkeypatch.setattr(length_rule, "measure_step_seconds", measured)
        engine = fresh(speculation=dataclasses.replace(fresh().config.speculation, length_rule="lossless"))
        own, programs = engine.read(document_text, prefill=False), engine.session.programs
        engine.compile(own, questions[0], ["sd"])
        assert not own.is_read and seen.pop() == (0, own.num_tokens)
        count = programs.count
        answer = own.ask(questions[0], "sd")
        assert programs.count == count and not seen, "nothing is left to compile or to measure"
        assert bool(answer.acceptance.proposed) == drafts


@pytest.mark.slow
def test_a_mesh_compiles_ahead_too(engine_config, document_text, questions):
    """Programs of several devices wait for one another; other threads only compile, so that they start in one order."""
    engine = Engine.load(config=dataclasses.replace(engine_config, mesh=(1, 2, 2)))
    own = engine.read(document_text, prefill=False)
    engine.compile(own, questions[0], METHODS)
    count = engine.session.programs.count
    for method in METHODS:
        own.ask(questions[0], method)
    assert engine.session.programs.count == count


@pytest.mark.parametrize(
    "question, methods, message",
    [
        ("", ["lc"], "question"),
        ("Who?", ["lcc"], "unknown method 'lcc'"),
        ("Who?", "lc", "methods must be a list of at least one method, got 'lc'"),
        ("Who? " * 2000, ["lc"], "tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(fresh, document_text, question, methods, message):
    """With the line that asking would give, before anything is compiled."""
    engine = fresh()
    own = engine.read(document_text, prefill=False)
    with pytest.raises(ValueError, match=message):
        engine.compile(own, question, methods)
    assert engine.session.programs.count == 0
