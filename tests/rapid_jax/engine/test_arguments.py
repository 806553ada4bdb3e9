"""What users hand to the Engine with the wrong type or value is refused in one line that says what would be right."""

import dataclasses
from pathlib import Path

import pytest

from models.fields import shown
from rapid_jax import Engine
from rapid_jax.config import SamplingConfig, SpeculationConfig, get_method
from rapid_jax.config.overrides import Overrides

HUGE = 10**5000
ASKED = "What is in house 9?"
TURN = [{"role": "user", "content": ASKED}]

LOAD = [
    (dict(target=3), "target must be a string"),
    (dict(target=Path("x")), "target must be a string"),
    (dict(drafter=[]), "drafter must be a string"),
    (dict(config={}), "config must be an EngineConfig, as EngineConfig(...) gives it, got {}"),
    (dict(config="x"), "config must be an EngineConfig"),
    (dict(progress=3), "progress must be a function of (done, all) or None, got 3"),
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
    (dict(text="a", keep=(-HUGE, 1)), "keep must be two numbers of tokens"),
    (dict(text="a", keep=(True, 1)), "keep must be two numbers of tokens"),
    (dict(text="a", template="{document}{question}" + "{question}" * 9), "template must hold"),
    (dict(text="a", drafter_template="{document}"), "drafter_template must hold"),
    (dict(text="a", prefill="no"), "prefill must be True or False, got 'no'"),
    (dict(text="a", progress="bar"), "progress must be a function of (done, all) or None, got 'bar'"),
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
    (dict(question=None), "question must be a string, got None"),
    (dict(question=3), "question must be a string, got 3"),
    (dict(question=b"Who?"), "question must be a string, got b'Who?'; decode it first"),
    (dict(question=""), "the question is empty"),
    (dict(question=[ASKED]), "must be a string"),
    (dict(question=ASKED, method=None), "unknown method None"),
    (dict(question=ASKED, method=3), "unknown method 3"),
    (dict(question=ASKED, method=["lc"]), "unknown method"),
    (dict(question=ASKED, method="LC"), "unknown method 'LC'"),
    (dict(question=ASKED, retrieval_query=3), "retrieval_query must be a string, got 3"),
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
    (dict(question=ASKED, alpha=1e-300), "alpha must be 0 or at least 1.2e-38"),
    (dict(question=ASKED, stop=["end"]), "stop must be a tuple"),
    (dict(question=ASKED, max_chunks=3), "unknown setting 'max_chunks'"),
    (dict(question=ASKED, from_checkpoint=("top_p",)), "unknown setting 'from_checkpoint'"),
    (dict(question=ASKED, method="lc", window=10**18), "window must be at most"),
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


def test_engine_ask_batch(engine, document):
    row = (document, ASKED)
    for batch, message in (
        ([], "a batch must be a list of at least one pair (document, question), got []"),
        (row, "row 0 of a batch must be a pair (document, question), got <Document"),
        ([row, ASKED], "row 1 of a batch must be a pair"),
        ([row, (document, ASKED, "lc")], "row 1 of a batch must be a pair"),
        ([row, (ASKED, document)], "the document of row 1 must be a Document, as Engine.read gives it"),
        ([row, (document, 3)], "the question of row 1 must be a string, got 3"),
        ([row, (document, " ")], "the question is empty"),
    ):
        refused(lambda batch=batch: engine.ask_batch(batch), message)
    refused(lambda: engine.ask_batch([row], retrieval_queries=["a", "b"]), "2 retrieval queries for 1 questions")
    refused(lambda: engine.ask_batch([row], max_chunks=0), "max_chunks must be")
    refused(lambda: engine.ask_batch([row], "rapids"), "unknown method 'rapids'")


def test_other_arguments(engine, document):
    refused(lambda: engine.ask_many("the document", [ASKED]), "document must be a Document")
    refused(lambda: engine.with_drafter(None), "drafter must be a string")
    refused(lambda: engine.converse([{"role": "user", "content": "a"}], after="b"), "after must be a Document")
    refused(lambda: get_method(3), "unknown method 3")
    refused(lambda: get_method(["lc"]), "unknown method ['lc']")
    refused(lambda: engine.require("lc"), "methods must be a list of Method")
    refused(lambda: engine.require(["lc"]), "methods must be a list of Method, as get_method gives them, got ['lc']")
    refused(lambda: Engine("Qwen/Qwen2.5-7B-Instruct"), "session must be a Session, as Engine.load(path).session gives")
    refused(lambda: document.retrieving_from(3), "text must be a string, got 3")


def test_a_document_of_another_engine_is_refused(engine, engine_config, document, document_text):
    """Its keys and values are another model's: answers would be made of noise."""
    other = Engine.load(config=engine_config)
    refused(lambda: other.ask_many(document, [ASKED]), "document must be a document that this engine has read")
    rows = [(other.read("A kettle.", prefill=False), ASKED), (document, ASKED)]
    refused(lambda: other.ask_batch(rows), "the document of row 1 must be a document that this engine has read")
    conversation = engine.converse(TURN)
    refused(lambda: other.converse(TURN, after=conversation), "after must be a document that this engine has read")
    assert engine.with_drafter(str(other.target.path)).converse(TURN, after=conversation).is_conversation


def test_a_turn_follows_a_conversation(engine, document):
    """A document has taught the databases nothing that a conversation could go on with."""
    refused(lambda: engine.converse(TURN, after=document), "after must be a conversation, as Engine.converse gives it")


def test_a_conversation_keeps_its_messages_when_the_callers_list_grows(engine):
    """A chat appends the answer to the list that it has asked with."""
    messages = [dict(turn) for turn in TURN]
    conversation = engine.converse(messages)
    before = conversation.prompt(engine.target).head()
    messages[0]["content"] = "Something else entirely?"
    messages.append({"role": "assistant", "content": "Yes."})
    assert conversation.prompt(engine.target).head() == before


def test_the_overrides_that_a_type_checker_knows_are_those_that_there_are():
    """A setting that is added must not be refused by mypy."""
    fields = {f.name: f.type for kind in (SpeculationConfig, SamplingConfig) for f in dataclasses.fields(kind)}
    del fields["from_checkpoint"]  # the checkpoint is read when the Engine is loaded
    assert fields == {name: kind.__forward_arg__ for name, kind in Overrides.__annotations__.items()}


def test_objects_introduce_themselves_in_one_short_line(engine, document):
    """An address, or 78,000 characters of weights, tells nobody what he holds."""
    for thing in (engine, document, engine.target):
        assert len(repr(thing)) < 300 and "\n" not in repr(thing) and " object at 0x" not in repr(thing)
