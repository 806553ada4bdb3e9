"""Who may be decoded together, and what seats a request asks for."""

import time

import pytest

from rapid_jax.serving.asked import asked_chat
from rapid_jax.serving.jobs import Job
from rapid_jax.serving.library import Library
from rapid_jax.serving.plan import plan
from tests.rapid_jax.serving.clients import MODEL, question


@pytest.fixture(scope="module")
def planned(serving_engine, document_text):
    """A function: text and fields of a request -> its Plan."""
    library = Library(serving_engine, memory_bytes=10**9, max_documents=10)
    document = library.upload(document_text, "report").id

    def make(text="Who keeps the kettle?", about=document, **fields):
        asked = asked_chat(question(text, about, **fields), model=MODEL, method="lc")
        return plan(serving_engine, library, Job(print, asked, time.monotonic() + 60), 300)

    return make


@pytest.mark.parametrize("fields", [dict(max_tokens=7), dict(seed=3), dict(stop=["x"]), dict(text="Who?")])
def test_lengths_seeds_and_stop_strings_are_each_rows_own(planned, fields):
    assert planned(**fields).key == planned().key and planned().joins


@pytest.mark.parametrize(
    "fields",
    [dict(method="copy"), dict(temperature=0.5), dict(top_p=0.5), dict(gamma=2), dict(eta=3.0), dict(about="")],
)
def test_other_settings_are_another_batch(planned, fields):
    assert planned(**fields).key != planned().key


def test_what_depends_on_its_row_is_alone(planned):
    """Two conversations have two contexts; sampled tokens of methods that cannot join depend on the row."""
    assert planned(about="").key != planned(about="").key
    assert planned(method="rapid").key == planned(method="rapid").key
    assert planned(method="rapid", temperature=1.0).key != planned(method="rapid", temperature=1.0).key


@pytest.mark.parametrize(
    "text, tokens, room", [("Who?", 24, (256, 256)), ("Who?", 257, (512, 512)), ("Who? " * 80, 24, (768, 256))]
)
def test_seats_have_room_for_most_other_requests(planned, text, tokens, room):
    """Their tails are a power of two, of which no slot is left out."""
    found = planned(text, max_tokens=tokens).room
    assert (found.question_tokens, found.new_tokens) == room
