"""Chat templates in an Engine: a drafter's own, arguments and date that are recorded, stop strings, texts as data."""

import dataclasses
import datetime
import json
import shutil

import jax
import numpy as np
import pytest

from rapid_jax.config import ChatConfig, EngineConfig, RetrievalConfig, SamplingConfig
from rapid_jax.decoding.step import propose
from rapid_jax.engine.batch import plan_batch, start_batch
from rapid_jax.engine.engine import Engine

TARGET = "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]{{ strftime_now('%d') }}"
DRAFTER = "<s>{% for m in messages %}U: {{ m.content }}{% endfor %}{{ '\nA: ' }}{% if brief %}({{ brief }}){% endif %}"
DAY = "2024-07-26"


def with_template(checkpoint, directory, template):
    """A copy of a checkpoint with another chat template."""
    shutil.copytree(checkpoint, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture(scope="module")
def config():
    return EngineConfig(
        retrieval=RetrievalConfig(embedder="hashing", chunk_tokens=96, max_chunks=2, threshold=-1.0),
        sampling=SamplingConfig(max_new_tokens=12),
        prefill_chunk=256,
        chat=ChatConfig(date=DAY),
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory, make_tiny_checkpoint, config):
    root = tmp_path_factory.mktemp("templates")
    target = with_template(make_tiny_checkpoint(), root / "target", TARGET)
    drafter = with_template(make_tiny_checkpoint(seed=1), root / "drafter", DRAFTER)
    return Engine.load(str(target), str(drafter), config)


@pytest.fixture(scope="module")
def document(engine, document_text):
    return engine.read(document_text)


QUESTION = "Who keeps the kettle?"


@pytest.mark.slow
def test_a_drafter_reads_the_end_of_its_own_prompt(engine, document):
    """Its template may end otherwise than the target's; its first draft must be what its own prompt asks for."""
    request = document.request([QUESTION], "sd", [QUESTION], {"length_rule": "none"})
    batch = plan_batch(engine.session, request)
    started = start_batch(engine.session, batch)
    (target,), (drafter,) = batch.target.prompts, batch.drafter.prompts
    decode = engine.target.tokenizer.decode
    assert decode(target).endswith("[assistant]26") and decode(drafter).endswith("\nA: ")
    assert np.asarray(started.state.newest).tolist() == [target[-1:]]
    assert np.asarray(started.state.last_tokens).tolist() == [drafter[-2:]]
    known = started.state.last_tokens, started.state.keys, started.state.num_tokens
    drafting = started.drafting
    draft, _ = jax.jit(propose, static_argnums=0)(started.spec, drafting.model, drafting.cache, started.controls, known)
    tokens = np.asarray(draft.tokens)[0, :4]
    logits = np.asarray(engine.drafter.logits([[*drafter, *tokens]]))[0, len(drafter) - 1 : -1]
    assert (logits[np.arange(4), tokens] > logits.max(-1) - 1e-4).all()


@pytest.mark.slow
def test_answers_are_the_targets_whatever_the_drafters_template(engine, document):
    """Speculative decoding without transfer is lossless, and its drafts go on from the drafter's own prompt."""
    plain = document.ask(QUESTION, "lc")
    drafted = document.ask(QUESTION, "sd", length_rule="none")
    for index, (a, b) in enumerate(zip(drafted.token_ids, plain.token_ids, strict=True)):
        if a != b:
            prompt = [*document.head, *document.tokenized.tokens, *document.prompt(engine.target).question(QUESTION)]
            logits = engine.target.logits([prompt + list(plain.token_ids[:index])])[0, -1]
            assert abs(logits[a] - logits[b]) < 1e-4
            break


def test_the_settings_of_the_prompt_are_recorded(engine, document):
    """A result must tell with which prompt it was made."""
    settings = json.loads(json.dumps(document.ask(QUESTION, "lc").settings))
    assert settings["chat"] == {"arguments": "", "date": DAY, "special_tokens_in_text": False}


def test_the_day_of_loading_is_kept(engine, config):
    """A run that goes on after midnight has the same prompts."""
    undated = dataclasses.replace(config, chat=ChatConfig(), drafter="")
    loaded = Engine.load(str(engine.target.path), config=undated)
    day = datetime.date.fromisoformat(loaded.config.chat.date)
    assert abs((day - datetime.date.today()).days) <= 1


def test_an_argument_that_the_targets_template_has_not_is_refused(engine, config):
    wrong = dataclasses.replace(config, chat=ChatConfig(arguments={"enable_thinking": False}))
    with pytest.raises(ValueError, match="the chat template has no argument 'enable_thinking'"):
        Engine.load(str(engine.target.path), config=wrong)


def test_a_stop_string_that_is_a_special_token_ends_the_answer(engine, document):
    """It is never in the text. These models write no special token, so that one of their tokens is made special."""
    tokens = document.ask(QUESTION, "lc").token_ids
    special = engine.target.tokenizer.special_ids
    token = next(t for t in tokens if t not in special)
    special[token] = "<|stop|>"
    try:
        answer = document.ask(QUESTION, "lc", stop=("<|stop|>",))
    finally:
        del special[token]
    assert answer.finish_reason == "stop_string"
    assert answer.token_ids == tokens[: tokens.index(token) + 1]


@pytest.mark.parametrize(
    "template, keep, wrong",
    [
        ("{document}", None, "template must hold {document} once, then {question} once"),
        ("{question} {document}", None, "template must hold"),
        ("{document} {question} {question}", None, "template must hold"),
        (3, None, "template must be a string"),
        (None, (-1, 5), "keep must be two numbers of tokens"),
        (None, (5, -1), "keep must be two numbers of tokens"),
        (None, (0, 0), "keep must be two numbers of tokens"),
        (None, 5, "keep must be two numbers of tokens"),
        (None, (True, 2), "keep must be two numbers of tokens"),
    ],
)
def test_what_reads_a_document_is_checked_as_the_config_is(engine, template, keep, wrong):
    """A template without {question} would drop the question; a negative number would repeat the document's end."""
    with pytest.raises(ValueError, match=wrong.replace("{", r"\{").replace("}", r"\}")) as caught:
        engine.read("Some text.", template=template, keep=keep, prefill=False)
    assert "\n" not in str(caught.value)


def test_lone_surrogates_are_read_as_replacement_characters(engine):
    document = engine.read("a\ud800 lamp", prefill=False)
    assert document.text == document.tokenized.text == "a\ufffd lamp"
    asked = document.request(["whose\ud800?"], "rapid"), document.request(["whose?"], "rapid", ["lamp\ud800"])
    assert [request.questions[0] for request in asked] == ["whose\ufffd?", "whose?"]
    assert [request.queries[0] for request in asked] == ["whose\ufffd?", "lamp\ufffd"], "every encoder is given text"
