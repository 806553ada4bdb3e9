"""The worker: who joins, who waits, who is ended, and what becomes of the others."""

import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from rapid_jax.decoding import loop
from rapid_jax.decoding.drafter import Pace
from rapid_jax.engine import batch
from rapid_jax.saving.store import DocumentStore
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.jobs import Answered, Failed, Job
from tests.rapid_jax.serving.clients import Client, call, question, wait_until


@pytest.fixture
def upload(document_text):
    """A function: a worker -> the id of the document, which it has read."""

    def make(worker, text=document_text):
        held = call(worker, lambda: worker.library.upload(text, "report"))
        call(worker, lambda: worker.library.read(held))
        return held.id

    return make


def tokens_alone(read, asked, method="lc", **overrides):
    return read.ask(asked, method, **overrides).token_ids


def test_requests_join_while_others_are_decoded(work, upload, read, questions):
    """Each answer is that of its question alone; the second begins before the first has ended."""
    worker = work()
    document = upload(worker)
    first = Client(worker, question(questions[0], document, max_tokens=200)).first()
    second = Client(worker, question(questions[1], document, max_tokens=12)).first()
    assert worker.decoding == 2 and not first.job.over
    for client, asked, count in ((second, questions[1], 12), (first, questions[0], 200)):
        event = client.end()
        assert isinstance(event, Answered), event
        assert event.answer.token_ids == tokens_alone(read, asked, max_new_tokens=count)
        assert client.text.strip() == event.answer.text
    assert second.job.first_piece < first.job.first_piece + event.answer.seconds.decode


def test_more_requests_than_seats_wait_for_one(work, upload, read, questions):
    worker = work(seats=2)
    document = upload(worker)
    clients = [Client(worker, question(asked, document, max_tokens=10 + 5 * n)) for n, asked in enumerate(questions)]
    for n, (client, asked) in enumerate(zip(clients, questions, strict=True)):
        assert client.end().answer.token_ids == tokens_alone(read, asked, max_new_tokens=10 + 5 * n)
    assert (worker.decoding, worker.waiting) == (0, 0)


def test_methods_whose_drafter_reads_passages_start_together(work, upload, read, questions):
    """They cannot join, so that those that come within a moment are one batch."""
    worker = work(method="rapid", gather_seconds=0.5)
    document = upload(worker)
    clients = [Client(worker, question(asked, document, max_tokens=24)) for asked in questions[:2]]
    answers = [client.end().answer for client in clients]
    assert [answer.batch_size for answer in answers] == [2, 2]
    for answer, asked in zip(answers, questions, strict=False):
        assert answer.token_ids == tokens_alone(read, asked, "rapid")


def test_such_batches_have_few_sizes(work, upload, questions):
    """Each number of rows compiles programs of its own, which takes longer than an answer."""
    worker = work(method="rapid", gather_seconds=0.5, seats=4)
    document = upload(worker)
    clients = [Client(worker, question(asked, document, max_tokens=4)) for asked in questions[:3]]
    assert [client.end().answer.batch_size for client in clients] == [2, 2, 1]


def test_sampled_answers_of_such_methods_are_decoded_alone(work, upload, read, questions):
    """Their random numbers depend on the row: in a batch, the second answer would not be that of its seed."""
    worker = work(method="sd", gather_seconds=0.3)
    document = upload(worker)
    sampled = dict(temperature=1.0, seed=5)
    clients = [Client(worker, question(asked, document, max_tokens=24, **sampled)) for asked in questions[:2]]
    for client, asked in zip(clients, questions, strict=False):
        assert client.end().answer.token_ids == tokens_alone(read, asked, "sd", **sampled)


def test_two_documents_take_turns(work, upload, serving_engine, document_text, read, questions):
    """A short question about one document does not wait for a long answer about another."""
    worker = work(groups=2)
    one, two = upload(worker), upload(worker, document_text[:700])
    long = Client(worker, question(questions[0], one, max_tokens=300)).first()
    short = Client(worker, question(questions[1], two, max_tokens=4))
    event = short.end()
    assert not long.job.over
    assert event.answer.token_ids == tokens_alone(
        serving_engine.read(document_text[:700]), questions[1], max_new_tokens=4
    )
    assert long.end().answer.token_ids == tokens_alone(read, questions[0], max_new_tokens=300)


def test_who_waits_for_a_group_of_its_own_is_not_passed_for_ever(work, upload, document_text, questions):
    """With one group, a stream of questions about one document would keep the other document out."""
    worker = work(groups=1, seats=2, patience_seconds=0.0)
    one, two = upload(worker), upload(worker, document_text[:700])
    order = []
    first = Client(worker, question(questions[0], one, max_tokens=60)).first()
    other = Client(worker, question(questions[1], two, max_tokens=4))
    late = [Client(worker, question(asked, one, max_tokens=4)) for asked in questions[2:]]
    watchers = [
        threading.Thread(target=lambda c=client, n=name: (c.end(), order.append(n)))
        for name, client in (("first", first), ("other", other), ("late", late[0]), ("late", late[1]))
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join(120)
    assert order == ["first", "other", "late", "late"]


def test_a_full_queue_refuses(work, upload, questions):
    worker = work(seats=1, groups=1, queue=2)
    document = upload(worker)
    first = Client(worker, question(questions[0], document, max_tokens=300)).first()
    waiting = [Client(worker, question(questions[1], document, max_tokens=4)) for _ in range(2)]
    with pytest.raises(ApiError, match="2 requests are waiting") as refused:
        Client(worker, question(questions[1], document))
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    worker.cancel(first.job)
    assert all(isinstance(client.end(), Answered) for client in waiting)


@pytest.mark.parametrize("method", ["lc", "rapid"])
def test_a_client_that_goes_frees_its_row(work, upload, read, questions, method):
    """Its tokens are no longer decoded, and the other's answer stays what it is."""
    worker = work(method=method, seats=2, groups=1, gather_seconds=0.5)
    document = upload(worker)
    count = 300 if method == "lc" else 24
    gone = Client(worker, question(questions[0], document, max_tokens=count))
    stays = Client(worker, question(questions[1], document, max_tokens=count))
    gone.first()
    worker.cancel(gone.job)
    event = gone.end()
    assert isinstance(event, Failed) and event.error.status == 499
    assert stays.end().answer.token_ids == tokens_alone(read, questions[1], method, max_new_tokens=count)
    wait_until(lambda: worker.decoding == 0)


def test_a_deadline_ends_an_answer_and_a_wait(work, upload, questions):
    worker = work(seats=1, groups=1)
    document = upload(worker)
    first = Client(worker, question(questions[0], document, max_tokens=4000)).first()
    second = Client(worker, question(questions[1], document, max_tokens=4), seconds=0.05)
    late = second.end()
    assert not first.job.over, "it has all the time that it needs"
    first.job.deadline = time.monotonic()
    for event in (late, first.end()):
        assert isinstance(event, Failed) and (event.error.status, event.error.code) == (504, "deadline_exceeded")
    assert isinstance(Client(worker, question(questions[1], document, max_tokens=4)).end(), Answered)


def test_draining_finishes_what_is_under_way_and_refuses_the_rest(work, upload, read, questions):
    worker = work(seats=1, groups=1)
    document = upload(worker)
    first = Client(worker, question(questions[0], document, max_tokens=100)).first()
    waits = Client(worker, question(questions[1], document))
    assert worker.drain(60)
    assert first.end().answer.token_ids == tokens_alone(read, questions[0], max_new_tokens=100)
    assert waits.end().error.status == 503
    with pytest.raises(ApiError) as refused:
        Client(worker, question(questions[1], document))
    assert refused.value.status == 503


def test_what_outlasts_the_grace_is_ended(work, upload, questions):
    worker = work()
    document = upload(worker)
    client = Client(worker, question(questions[0], document, max_tokens=4000)).first()
    begun = time.monotonic()
    assert not worker.drain(0.2)
    assert time.monotonic() - begun < 20
    assert client.end().error.status == 503


def test_an_error_of_one_answer_leaves_the_others(work, upload, read, questions, monkeypatch):
    """A bad row must neither end its neighbours nor the worker."""
    from rapid_jax.serving import seated

    worker = work(seats=2)
    document = upload(worker)
    make_answers = seated.make_answers

    def failing(session, request, *args):
        if request.questions[0] == questions[0]:
            raise RuntimeError("broken")
        return make_answers(session, request, *args)

    monkeypatch.setattr(seated, "make_answers", failing)
    bad, good = (Client(worker, question(asked, document, max_tokens=20)) for asked in questions[:2])
    event = bad.end()
    assert isinstance(event, Failed) and event.error.status == 500 and "broken" not in event.error.message
    assert good.end().answer.token_ids == tokens_alone(read, questions[1], max_new_tokens=20)
    assert isinstance(Client(worker, question(questions[2], document, max_tokens=4)).end(), Answered)


def test_an_error_of_a_burst_ends_its_group_alone(work, upload, questions, monkeypatch):
    from rapid_jax.serving.seated import SeatedGroup

    worker = work()
    document = upload(worker)
    client = Client(worker, question(questions[0], document, max_tokens=300)).first()

    def broken(self):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(SeatedGroup, "step", broken)
        assert client.end().error.code == "out_of_memory"
    assert isinstance(Client(worker, question(questions[0], document, max_tokens=4)).end(), Answered)


def test_others_are_decoded_while_a_document_is_read(work, upload, document_text, questions):
    """Reading takes minutes on long documents: nobody's answer may stand still so long."""
    worker = work(groups=2)
    document = upload(worker)
    client = Client(worker, question(questions[0], document, max_tokens=400)).first()
    seen = []
    inner = worker.library._progress

    def watched(done, total):
        before = client.job.first_piece and client.events.qsize()
        inner(done, total)
        seen.append(client.events.qsize() - before)

    worker.library._progress = watched
    upload(worker, " ".join(reversed(document_text.split())) * 2)
    assert len(seen) > 2 and sum(seen) > 0
    assert not client.job.over
    worker.cancel(client.job)


def test_a_document_that_nobody_waits_for_is_not_read_to_its_end(work, serving_engine, document_text):
    worker = work()
    events, reached = [], threading.Event()
    held = call(worker, lambda: worker.library.upload(document_text * 3, "long"))
    inner = worker.library._progress

    def watched(done, total):
        reached.set()
        worker.cancel(job)
        inner(done, total)

    held.document._progress = watched
    job = Job(events.append, lambda: worker.library.read(held))
    worker.submit(job)
    wait_until(lambda: events)
    assert reached.is_set() and events[0].error.status == 499
    assert not held.document.is_read


def test_what_was_used_longest_ago_goes_from_memory(work, upload, document_text, questions, read):
    """And is read again when it is asked about, with the same answer."""
    size = sum(x.nbytes for x in jax.tree.leaves(read.context))
    worker = work(memory_bytes=int(2.5 * size))
    ids = [upload(worker, text) for text in (document_text, f"A. {document_text}", f"B. {document_text}")]
    assert [held.document.is_read for held in worker.library.listed()] == [False, True, True]
    assert worker.library.nbytes <= 2.5 * size
    answer = Client(worker, question(questions[0], ids[0], max_tokens=24)).end().answer
    assert answer.token_ids == tokens_alone(read, questions[0])
    assert [held.document.is_read for held in worker.library.listed()] == [True, False, True]


def test_a_store_keeps_what_memory_cannot(work, upload, document_text, questions, read, tmp_path):
    """A document that had to go, or that an earlier server has read, is opened and not read."""
    store = DocumentStore(tmp_path, 10**9)
    size = sum(x.nbytes for x in jax.tree.leaves(read.context))
    worker = work(store, memory_bytes=int(1.5 * size))
    first = upload(worker)
    wait_until(lambda: list(tmp_path.glob("*/*.json")))
    upload(worker, f"B. {document_text}")
    answer = Client(worker, question(questions[0], first, max_tokens=24)).end().answer
    assert answer.token_ids == tokens_alone(read, questions[0])
    assert worker.library.get(first).document.reading_seconds is not None, "it was opened"
    worker.stop()
    later = work(store)
    upload(later)
    assert later.library.get(first).document.reading_seconds is not None
    call(later, lambda: later.library.remove(first))
    later.stop()
    assert not (tmp_path / read.key).exists()


def test_earlier_answers_are_left_to_be_copied(work, upload, questions, monkeypatch):
    """Methods that copy profit from what was said about the document before."""
    free = Pace(jnp.ones(4), jnp.int32(-1))  # what a clock says of drafts must not decide here
    monkeypatch.setattr(loop, "with_costs", lambda run, args: free)
    worker = work(method="copy")
    document = upload(worker)
    first = Client(worker, question(questions[0], document, max_tokens=24)).end().answer
    again = Client(worker, question(questions[0], document, max_tokens=24)).end().answer
    assert again.token_ids == first.token_ids
    assert worker.library.get(document).document.copied_before.tokens[: len(first.token_ids)] == first.token_ids
    assert again.acceptance.by_source["earlier answers"] > 0
    assert again.acceptance.steps < first.acceptance.steps


def test_those_who_share_a_step_draft_as_they_ask_to(work, upload, serving_engine, questions, monkeypatch):
    """The length rule is one answer's: rows that join a batch could not have steps of their own."""
    monkeypatch.setattr(batch, "decide", lambda *_: pytest.fail("nothing may be decided for a batch that others join"))
    config = serving_engine.session.config
    rule = dataclasses.replace(config.speculation, length_rule="all", choose_gamma=True)
    monkeypatch.setattr(serving_engine.session, "config", dataclasses.replace(config, speculation=rule))
    worker = work(method="pages")
    answer = Client(worker, question(questions[0], upload(worker), max_tokens=24)).end().answer
    assert answer.acceptance.proposed and answer.settings["length_rule"] == "none"


def test_memory_does_not_grow_with_requests(work, upload, questions):
    """A state, a document or an answer that stayed would fill a device in a night."""
    worker = work(seats=2)
    document = upload(worker)

    def arrays():
        Client(worker, question(questions[0], document, max_tokens=4)).end()
        wait_until(lambda: worker.decoding == 0)
        return sum(x.nbytes for x in jax.live_arrays())

    arrays()
    before = arrays()
    for _ in range(5):
        arrays()
    assert arrays() <= before
