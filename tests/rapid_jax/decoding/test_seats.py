"""Seats: whoever joins a batch under way gets the tokens of a question asked alone, and so do the others."""

import dataclasses

import jax
import numpy as np
import pytest

from rapid_jax.config import METHODS
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.seats import Room, Seats
from rapid_jax.engine.batch import plan_batch, start_batch
from rapid_jax.engine.engine import Engine
from tests.marks import quick, slow

JOINING = [name for name, method in METHODS.items() if not method.retrieves and name not in ("planes", "rest")]
AS_ALONE = [name for name in JOINING if name != "pages"]  # whose choice of pages depends on when others joined
ROOM = Room(64, 32)
SAMPLED = dict(temperature=1.0)


class Row:
    """A question in a seat, and what it has said."""

    def __init__(self, question, **overrides):
        self.question, self.overrides = question, overrides
        self.tokens, self.done = [], False


@pytest.fixture(scope="module")
def engine(engine_config):
    """One with programs of its own: other tests count those of the shared engine."""
    return Engine.load(config=engine_config)


@pytest.fixture(scope="module")
def document(engine, document_text):
    return engine.read(document_text)


@pytest.fixture
def table(engine, document):
    """A function: method, seats, overrides -> (Seats, a function that seats a Row)."""

    def make(method, seats=3, **common):
        session = engine.session
        made = []

        def start(row):
            request = document.request([row.question], method, None, {**common, **row.overrides})
            return start_batch(session, dataclasses.replace(plan_batch(session, request), room=ROOM))

        def enter(row):
            started = start(row)
            if not made:
                args = (session.programs, started.spec, started.params, started.context, started.drafting.model)
                sizes = dict(rows=seats, burst_steps=2, mesh=session.mesh)
                made.append(Seats.around(*args, started.controls, started.state, **sizes))
            made[0].enter(row, started.state)
            return made[0]

        return enter

    return make


def burst(seats):
    """A burst, after which those who are done have left."""
    seen = seats.burst()
    for row, guest in () if seen is None else seen.guests:
        report = seen.of_row(row)
        guest.tokens = report.output[0, : report.num_tokens[0]].tolist()
        if report.done[0]:
            guest.done = True
            seats.leave(guest)


def play(enter, rows, every=1):
    """All rows, a newcomer every few bursts as far as seats are free; the most that ever sat together."""
    waiting, most, seats = list(rows), 0, None
    for turn in range(500):
        if waiting and turn % every == 0 and (seats is None or seats.free):
            seats = enter(waiting.pop(0))
            most = max(most, len(seats.guests))
        burst(seats)
        if all(row.done for row in rows):
            return most
    raise AssertionError("not all rows came to their end")


def assert_as_alone(engine, document, method, row, **common):
    """Token for token, but where the target's logits of both candidates are a near-tie (teacher forcing)."""
    alone = document.ask(row.question, method, **common, **row.overrides)
    assert len(row.tokens) == len(alone.token_ids)
    for index, (a, b) in enumerate(zip(row.tokens, alone.token_ids, strict=True)):
        if a != b:
            question = document.prompt(engine.target).question(row.question)
            logits = engine.target.logits([document.token_ids + question + list(alone.token_ids[:index])])[0, -1]
            assert not common.get("temperature"), f"token {index}: {a} instead of {b}"
            assert abs(logits[a] - logits[b]) < 1e-4, f"token {index}: {a} instead of {b}"
            return


@pytest.mark.parametrize("method", quick(JOINING, "lc", "auto"))
def test_greedy_answers_with_joins_are_those_of_questions_alone(engine, document, questions, table, method):
    """Six questions in three seats: rows enter while others decode, and sit where others sat."""
    rows = [Row(question, max_new_tokens=n) for question, n in zip(questions * 2, (24, 7, 19, 12, 24, 3), strict=False)]
    assert play(table(method), rows) > 1, "nobody was decoded beside another"
    for row in rows:
        assert_as_alone(engine, document, method, row)


@pytest.mark.parametrize("method", quick(AS_ALONE, "copy"))
def test_sampled_answers_keep_their_own_seeds(engine, document, questions, table, method):
    """A request's random numbers are its own: neither the row nor the neighbours may show in them."""
    rows = [Row(question, max_new_tokens=16, seed=seed) for seed, question in enumerate(questions * 2)]
    play(table(method, **SAMPLED), rows[:6])
    for row in rows[:6]:
        assert_as_alone(engine, document, method, row, **SAMPLED)
    assert rows[0].tokens != rows[4].tokens, "the same question with another seed"


@pytest.mark.parametrize("seats", [1, slow(5)])
def test_any_number_of_seats(engine, document, questions, table, seats):
    """One seat is a queue; more seats than questions leave rows that nobody has."""
    rows = [Row(question, max_new_tokens=8) for question in questions[:3]]
    play(table("lc", seats), rows)
    for row in rows:
        assert_as_alone(engine, document, "lc", row)


def test_a_row_that_leaves_early_is_free_and_the_others_go_on(engine, document, questions, table):
    """A client that has gone must not cost the others anything."""
    enter = table("lc", 2)
    gone, stays, late = (Row(question, max_new_tokens=24) for question in questions[:3])
    enter(gone)
    seats = enter(stays)
    burst(seats)
    burst(seats)
    seats.leave(gone)
    assert (seats.free, gone.done) == (1, False)
    assert len(gone.tokens) < 24
    enter(late)
    while not (stays.done and late.done):
        burst(seats)
    for row in (stays, late):
        assert_as_alone(engine, document, "lc", row)


def test_a_row_that_left_is_no_longer_decoded(document, questions, table):
    """Its steps would be paid for until its budget is used up."""
    enter = table("lc", 2)
    gone, stays = Row(questions[0], max_new_tokens=24), Row(questions[1], max_new_tokens=24)
    enter(gone)
    seats = enter(stays)
    seats.burst()
    seats.leave(gone)
    reports = [seats.burst().report for _ in range(4)]
    assert reports[1].done[0] and reports[1].num_tokens[0] == reports[3].num_tokens[0] < 24
    assert reports[3].num_tokens[1] > reports[1].num_tokens[1]


def test_no_seat_and_another_size_are_refused(document, questions, table):
    """Both would write over somebody's row, or fail inside of XLA."""
    enter = table("lc", 1)
    seats = enter(Row(questions[0], max_new_tokens=8))
    with pytest.raises(ValueError, match="all 1 seats are taken"):
        enter(Row(questions[1], max_new_tokens=8))
    seats.leave(seats.guests[0])
    with pytest.raises(ValueError, match="sizes of the seats"):
        enter(Row(questions[1], max_new_tokens=100))


def test_a_mesh_that_splits_rows_is_refused(engine, document, questions):
    """A row of one shard cannot be written into rows that lie on several."""
    session = engine.session
    started = start_batch(session, plan_batch(session, document.request([questions[0]], "lc")))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1), ("data", "context", "model"))
    args = (Programs(), started.spec, started.params, started.context, (), started.controls, started.state)
    with pytest.raises(ValueError, match="data=2"):
        Seats.around(*args, rows=2, burst_steps=2, mesh=mesh)


def test_newcomers_compile_nothing_once_the_sizes_are_known(document, questions, table, compilations):
    """A compilation would stop everybody's answer for seconds."""
    enter = table("lc", 2)
    play(enter, [Row(question, max_new_tokens=8) for question in questions[:3]])
    before = len(compilations)
    play(enter, [Row(question, max_new_tokens=11, seed=5) for question in questions[1:]])
    assert len(compilations) == before


def test_room():
    assert Room(64, 32).holds(64, 32)
    assert not Room(64, 32).holds(65, 1)
    assert not Room(64, 32).holds(1, 33)
