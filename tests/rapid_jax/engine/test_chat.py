"""Conversations about a document: follow-up questions see earlier turns, which are not read again."""

import dataclasses

import pytest

from rapid_jax.config import SamplingConfig
from rapid_jax.engine import Chat
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.prompt import Prompt

TURNS = [dict(role="user", content="Who keeps the kettle?"), dict(role="assistant", content="Odan Keld keeps it.")]


def same_tokens(engine, document, answer, expected):
    """Token for token up to a near-tie of the target's logits: forwards of different sizes round differently."""
    ids = document.token_ids + document.prompt(engine.target).question(expected.question)
    for index, (a, b) in enumerate(zip(answer.token_ids, expected.token_ids, strict=False)):
        if a != b:
            logits = engine.target.logits([ids + list(expected.token_ids[:index])])[0, -1]
            assert abs(logits[a] - logits[b]) < 1e-4, f"token {index}: {a} instead of {b}"
            return
    assert len(answer.token_ids) == len(expected.token_ids)


def test_the_prompt_holds_the_turns_in_their_order(engine, document):
    """What the target reads behind the document is the conversation as the chat template shows it."""
    tokenizer = engine.target.tokenizer
    behind = document.after(TURNS).prompt(engine.target).question("Where is it?")
    text = tokenizer.decode(behind)
    places = [text.index(part) for part in ("Who keeps the kettle?", "Odan Keld keeps it.", "Where is it?")]
    assert places == sorted(places)
    assert document.after(TURNS).token_ids == document.token_ids


def test_an_answer_behind_turns_is_that_of_the_whole_prompt(engine, document):
    """The turns are part of the question: the tokens are those of one plain forward over everything."""
    answer = document.after(TURNS).ask("Where is it?", "lc", max_new_tokens=6, temperature=0.0)
    ids = document.token_ids + document.after(TURNS).prompt(engine.target).question("Where is it?")
    for token in answer.token_ids:
        logits = engine.target.logits([ids])[0, -1]
        assert logits[token] > logits.max() - 1e-4
        ids.append(token)


@pytest.mark.parametrize("method", ["lc", "sd", "rapid", "hd", "copy", "pages", "auto", "magicdec"])
def test_a_chat_answers_as_the_document_behind_its_turns(engine, document, questions, method):
    """Keys and values that were kept are those that reading again would give."""
    chat = Chat(document)
    for question in questions[:3]:
        query = "\n".join([*[m["content"] for m in chat.messages[-2:-1]], question])
        behind = document.after(chat.messages)
        expected = behind.ask(question, method if method == "rapid" else "lc", retrieval_query=query)
        answer = chat.ask(question, method)
        same_tokens(engine, behind, answer, expected)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3


def test_what_was_read_and_said_is_not_read_again(engine, document, questions):
    """The second prompt is read from where it differs from the first and its answer."""
    chat = Chat(document)
    first = chat.ask(questions[0], "lc")
    said = Prompt(engine.target.tokenizer, engine.config.prompt).question(questions[0])
    chat.ask(questions[1], "lc")
    assert len(said) - 2 <= chat.reused_tokens <= len(said) + len(first.token_ids)
    chat.forget()
    assert chat.messages == []
    chat.ask(questions[0], "lc")
    assert chat.reused_tokens == len(said) - 1


def test_an_answer_can_be_stopped_and_the_conversation_goes_on(engine, document, questions):
    """Ctrl-C in a terminal: what was said counts as the turn."""
    config = dataclasses.replace(engine.config, burst_steps=2)
    other = Engine(dataclasses.replace(engine.session, config=config))
    chat = Chat(other.read(document.text))
    stream = chat.stream(questions[0], "lc", max_new_tokens=24)
    pieces = []
    for piece in stream:
        pieces.append(piece)
        stream.stop()
    answer = stream.answer
    assert answer.finish_reason == "stopped" and 0 < len(answer.token_ids) < 24
    assert chat.messages[-1] == dict(role="assistant", content=answer.text)
    assert chat.ask(questions[1], "lc").finish_reason in ("stop", "length")


def test_rows_with_turns_of_their_own_share_the_document(engine, document, questions):
    """One cache for all rows of a batch, whatever was said before in each."""
    behind = document.after(TURNS)
    engine.session.together.clear()
    answers = engine.ask_batch([(document, questions[0]), (behind, questions[1])], method="lc")
    for about, question, answer in zip((document, behind), questions, answers, strict=False):
        same_tokens(engine, about, answer, about.ask(question, "lc"))
    assert not engine.session.together, "no context was copied into rows"


def test_turns_share_what_the_document_has(document):
    """Passages come from the one index, and later answers are copied from by all."""
    behind = document.after(TURNS)
    assert behind.index is document.index and behind.context is document.context
    behind.ask("Where is it?", "copy")
    assert behind.copied_before is document.copied_before
    assert document.after([]) is document and document.after(TURNS).after([]) is document


@pytest.mark.parametrize(
    "messages, message",
    [
        ("hello", "must be a list of turns"),
        ([dict(role="assistant", content="x")], "message 0 must be of the user"),
        (TURNS[:1], "must end with the assistant's answer"),
        ([*TURNS, *TURNS[:1], *TURNS[:1]], "message 3 must be of the assistant"),
        ([dict(role="user")], "must have a role and a content"),
        ([dict(role="user", content=3)], "content of a message"),
    ],
)
def test_turns_that_are_none_are_refused(document, messages, message):
    with pytest.raises(ValueError, match=message):
        document.after(messages)


def test_a_conversation_without_a_document_takes_no_turns(engine):
    with pytest.raises(ValueError, match="give a conversation all its messages"):
        engine.converse([dict(role="user", content="Hello there")]).after(TURNS)


def test_a_long_conversation_says_that_there_is_no_room(engine, document):
    """Nothing of it is cut silently."""
    long = [dict(role="user", content="word " * 20000), dict(role="assistant", content="yes")]
    with pytest.raises(ValueError, match="positions"):
        document.after(long).ask("And?", "lc", max_new_tokens=SamplingConfig().max_new_tokens)
