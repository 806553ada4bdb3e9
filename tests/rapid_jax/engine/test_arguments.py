"""What users hand to the Engine with the wrong type or value is refused in one line that says what would be right."""

from pathlib import Path

import pytest

from models.fields import shown
from rapid_jax import Engine
from rapid_jax.config import get_method

HUGE = 10**5000
ASKED = "What is in house 9?"

LOAD = [
    (dict(target=3), "target must be a string"),
    (dict(target=Path("x")), "target must be a string"),
    (dict(drafter=[]), "drafter must be a string"),
    (dict(config={}), "config must be a EngineConfig"),
    (dict(config="x"), "config must be a EngineConfig"),
]
READ = [
    (dict(text=None), "text must be a string"),
    (dict(text=b"bytes"), "text must be a string, got b'bytes'; decode it first"),
    (dict(text=3), "text must be a string"),
    (dict(text=["a"]), "text must be a string"),
    (dict(text=""), "the document is empty"),
    (dict(text=" \n"), "the document is empty"),
    (dict(text="a", template=3), "template must be a string"),
    (dict(text="a", template="{document}"), "template must hold"),
    (dict(text="a", template="{question} {document}"), "template must hold"),
    (dict(text="a", template="{document} {document} {question}"), "template must hold"),
    (dict(text="a", keep=(-1, 5)), "keep must be two numbers of tokens"),
    (dict(text="a", keep=(0, 0)), "keep must be two numbers of tokens"),
    (dict(text="a", keep=5), "keep must be two numbers of tokens"),
    (dict(text="a", keep=(1,)), "keep must be two numbers of tokens"),
    (dict(text="a", keep=(1.5, 2)), "keep must be two numbers of tokens"),
    (dict(text="a", keep="12"), "keep must be two numbers of tokens"),
]
CONVERSE = [
    (None, "messages must be a list"),
    ([], "messages must be a list"),
    ("hello", "messages must be a list"),
    ([3], "a message must have a role and a content"),
    ([{}], "a message must have a role and a content"),
    ([{"role": "user"}], "a message must have a role and a content"),
    ([{"role": "user", "content": None}], "the content of a message must be a string"),
    ([{"role": "user", "content": ["a"]}], "the content of a message must be a string"),
    ([{"role": 3, "content": "a"}], "the role of a message must be a string"),
    ([{"role": "wizard", "content": "a"}], "the role of a message must be one of"),
    ([{"role": "assistant", "content": "a"}], "must end with a message of the user"),
]
ASK = [
    (dict(question=None), "must be a string"),
    (dict(question=3), "must be a string"),
    (dict(question=""), "the question is empty"),
    (dict(question=[ASKED]), "must be a string"),
    (dict(question=ASKED, method=None), "unknown method None"),
    (dict(question=ASKED, method=3), "unknown method 3"),
    (dict(question=ASKED, method=["lc"]), "unknown method"),
    (dict(question=ASKED, method="LC"), "unknown method 'LC'"),
    (dict(question=ASKED, retrieval_query=3), "must be a string"),
    (dict(question=ASKED, retrieval_query=" "), "the retrieval query is empty"),
    (dict(question=ASKED, gama=3), "unknown setting 'gama'"),
    (dict(question=ASKED, gamma="3"), "gamma must be"),
    (dict(question=ASKED, gamma=HUGE), "gamma must be at most"),
    (dict(question=ASKED, eta=float("nan")), "eta must be"),
    (dict(question=ASKED, eta=1e39), "eta must be"),
    (dict(question=ASKED, eta=None), "eta must be"),
    (dict(question=ASKED, top_p=1e-300), "top_p must be"),
    (dict(question=ASKED, temperature=1e39), "temperature must be"),
    (dict(question=ASKED, temperature=True), "temperature must be"),
    (dict(question=ASKED, top_k=10**18), "top_k must be at most"),
    (dict(question=ASKED, max_new_tokens=10**18), "max_new_tokens must be at most"),
    (dict(question=ASKED, stop="end"), "stop must be"),
    (dict(question=ASKED, stop=("",)), "stop must be"),
    (dict(question=ASKED, seed=-1), "seed must be"),
    (dict(question=ASKED, tail=["teacher"]), "tail must be one of"),
    (dict(question=ASKED, sinks=10**18), "sinks must be at most"),
    (dict(question=ASKED, alpha="x"), "alpha must be"),
]
ASK_MANY = [
    (dict(questions=ASKED), "questions must be a list"),
    (dict(questions=[]), "questions must be a list"),
    (dict(questions=None), "questions must be a list"),
    (dict(questions=[ASKED, 3]), "each of questions must be a string"),
    (dict(questions=[ASKED], retrieval_queries=[]), "retrieval_queries must be a list"),
    (dict(questions=[ASKED], retrieval_queries=["a", "b"]), "2 retrieval queries for 1 questions"),
    (dict(questions=[ASKED], retrieval_queries=[3]), "each of retrieval_queries must be a string"),
    (dict(questions=[ASKED], max_chunks=0), "max_chunks must be"),
    (dict(questions=[ASKED], max_chunks=-1), "max_chunks must be"),
    (dict(questions=[ASKED], max_chunks=1.5), "max_chunks must be"),
    (dict(questions=[ASKED], max_chunks=True), "max_chunks must be"),
]


def refused(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) < 500, text


def named(table):
    return [shown(list(case[0].items())[-1] if isinstance(case[0], dict) else case[0])[:50] for case in table]


@pytest.mark.parametrize(("arguments", "message"), LOAD, ids=named(LOAD))
def test_engine_load(arguments, message):
    refused(lambda: Engine.load(**arguments), message)


@pytest.mark.parametrize(("arguments", "message"), READ, ids=named(READ))
def test_engine_read(engine, arguments, message):
    refused(lambda: engine.read(**arguments), message)


@pytest.mark.parametrize(("messages", "message"), CONVERSE, ids=named(CONVERSE))
def test_engine_converse(engine, messages, message):
    refused(lambda: engine.converse(messages), message)


@pytest.mark.parametrize(("arguments", "message"), ASK, ids=named(ASK))
def test_document_ask(document, arguments, message):
    refused(lambda: document.ask(**arguments), message)
    refused(lambda: document.stream(**arguments), message)


@pytest.mark.parametrize(("arguments", "message"), ASK_MANY, ids=named(ASK_MANY))
def test_engine_ask_many(engine, document, arguments, message):
    refused(lambda: engine.ask_many(document, **arguments), message)


def test_other_arguments(engine, document):
    refused(lambda: engine.ask_many("the document", [ASKED]), "document must be a Document")
    refused(lambda: engine.with_drafter(None), "drafter must be a string")
    refused(lambda: engine.converse([{"role": "user", "content": "a"}], after="b"), "after must be a Document")
    refused(lambda: get_method(3), "unknown method 3")


def test_objects_introduce_themselves_in_one_short_line(engine, document):
    """An address, or 78,000 characters of weights, tells nobody what he holds."""
    for thing in (engine, document, engine.target):
        assert len(repr(thing)) < 300 and "\n" not in repr(thing) and " object at 0x" not in repr(thing)
