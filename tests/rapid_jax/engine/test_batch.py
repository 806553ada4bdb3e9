"""A batch before its first step: what is read again, what fits, what each model has read, which eta, whose seconds."""

import dataclasses
import re
import types

import numpy as np
import pytest

from rapid_jax.config.methods import METHODS, get_method
from rapid_jax.decoding.state import NotFinite
from rapid_jax.engine import batch as batches
from rapid_jax.engine.batch import ModelInput, Started, controls_of, plan_batch, start_batch
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.length_rule import Decision
from rapid_jax.engine.request import check_request, check_room, longest_draft
from rapid_jax.speculation import StepSeconds
from tests.marks import slow

# Tokens of a draft: of this engine, of the databases, of prompt lookup, of a gamma that is chosen, of a copy.
GAMMA, DATABASES, LOOKUP, LONGEST, COPY = 4, 4, 10, 16, 32


@pytest.fixture
def planned(engine, document, questions):
    """A function that plans a batch of the first questions."""

    def plan(method, rows=1, **overrides):
        return plan_batch(engine.session, document.request(questions[:rows], method, None, overrides))

    return plan


def test_other_passages_of_the_same_length_are_read(engine):
    """A question would be answered from the passages of the question before it."""
    session, model = engine.session, engine.target
    passages = np.random.default_rng(0).integers(3, 250, (3, 200)).tolist()
    first = session.prefill_passages(model, passages[:1])
    assert session.prefill_passages(model, [list(passages[0])]) is first
    other = session.prefill_passages(model, passages[1:2])
    assert other.rows == passages[1:2] and (np.asarray(other.cache.k[0]) != np.asarray(first.cache.k[0])).any()
    two = session.prefill_passages(model, passages[1:])
    assert two.rows == passages[1:] and two.cache.k[0].shape[0] == 2
    assert session.prefill_passages(model, passages[2:0:-1]).rows == passages[2:0:-1], "rows in another order"


def test_what_another_model_has_read_is_not_taken_for_its_own(engine):
    """A drafter of its own has other weights: the target's keys and values would mean nothing to it."""
    session = dataclasses.replace(engine.session, passages={})
    passages, copy = [[5] * 200], dataclasses.replace(engine.target)
    read = session.prefill_passages(engine.target, passages)
    assert session.prefill_passages(copy, passages) is not read
    assert session.prefill_passages(engine.target, passages) is read


ROOM = {
    "lc": ("lc", {}, 0),
    "rag": ("rag", {}, 0),
    "sd": ("sd", {}, GAMMA),
    "longer drafts": ("rapid", dict(gamma=9), 9),
    "a gamma that is chosen": ("sd", dict(choose_gamma=True), LONGEST),
    "nobody chooses one for its own cache": ("magicdec", dict(choose_gamma=True), GAMMA),
    "databases": ("hd", {}, DATABASES),
    "prompt lookup": ("pld", {}, LOOKUP),
    "copies": ("copy", {}, COPY),
    "a drafter with databases": ("rapid+hd", {}, GAMMA),
}


@pytest.mark.parametrize("case", ROOM)
def test_context_question_answer_and_a_draft_fit_to_the_last_position(engine, document, questions, case):
    """One position short is an answer refused for nothing; one too many is a RoPE position that was never trained."""
    method, overrides, draft = ROOM[case]
    request = document.request(questions[:1], method, None, dict(max_new_tokens=40, **overrides))
    needed = 100 + 7 + 40 + draft + 1
    for limit, fits in ((needed, True), (needed - 1, False)):
        model = types.SimpleNamespace(config=types.SimpleNamespace(max_position=limit))
        if fits:
            check_room(engine.session, request, model, 100, 7)
            continue
        passages, document_behind_a_head = {}, {"head": 5}
        for given, remedy in (
            (passages, "set retrieval.max_chunks lower"),
            (document_behind_a_head, "set max_context_tokens to at most 94"),  # 5 + 94 + what follows are the limit
        ):
            refused = f"would need {needed} positions .*, it has {limit}: {remedy}"
            with pytest.raises(ValueError, match=refused) as error:
                check_room(engine.session, request, model, 100, 7, **given)
        assert f"(context 100, question 7, answer and draft {40 + draft + 1})" in str(error.value)


@pytest.mark.parametrize("method", ["lc", "sd"])
def test_a_request_is_checked_with_the_whole_document_and_its_own_question(engine, document, questions, method):
    """Before anything slow, and not against another row's question."""
    session = engine.session
    own = [len(document.prompt(engine.target).question(question)) for question in questions]
    draft = GAMMA if method == "sd" else 0
    longest = engine.target.config.max_position - document.num_tokens - max(own) - draft - 1
    check_request(session, document.request(questions, method, None, dict(max_new_tokens=longest)))
    with pytest.raises(ValueError, match="the target would need 8193 positions") as error:
        check_request(session, document.request(questions, method, None, dict(max_new_tokens=longest + 1)))
    assert f"question {max(own)}, " in str(error.value)


def test_a_document_may_have_one_token_and_no_fewer(engine):
    """The bound on new tokens that its refusal states."""
    for tokens, fits in ((8192 - 1 - 512 - COPY - 1 - 1, True), (8192 - 1 - 512 - COPY - 1, False)):
        sampling = dataclasses.replace(engine.config.sampling, max_new_tokens=tokens)
        config = dataclasses.replace(engine.config, sampling=sampling)
        other = Engine(dataclasses.replace(engine.session, config=config))
        if fits:
            assert len(other.read("some text", prefill=False).tokenized.tokens) == 1
        else:
            with pytest.raises(ValueError, match="leaves no room for a document"):
                other.read("some text", prefill=False)


@pytest.mark.parametrize("speculation", [{}, dict(choose_gamma=True), dict(gamma=20)], ids=str)
def test_a_document_that_was_cut_leaves_every_method_a_question_of_512_tokens(engine, speculation):
    """Methods draft up to different lengths: a document cut for one of them would be refused by another."""
    speculation = dataclasses.replace(engine.config.speculation, **speculation)
    config = dataclasses.replace(engine.config, speculation=speculation)
    document = Engine(dataclasses.replace(engine.session, config=config)).read("x" * 9000, prefill=False)
    behind = len(document.prompt(engine.target).question("y")) - 1
    question = "y" * (512 - behind)
    for method in METHODS:
        if method not in ("rest", "planes"):  # whose database, and whose planes, are not here
            check_request(engine.session, document.request([question], method))
    longest = max(GAMMA, *(longest_draft(m, speculation, config) for m in METHODS.values()))
    assert document.num_tokens == 8192 - 512 - config.sampling.max_new_tokens - longest - 1, "no token more is left out"


@pytest.mark.parametrize("method", ["lc", "rag", "sd", "rapid", "magicdec", "pages", "copy", "hd", "rapid+hd"])
def test_each_model_has_read_all_but_the_tokens_that_its_first_forward_takes(engine, planned, method):
    """The target takes one and the drafter two: a token read twice, or never, shifts every later position."""
    batch = planned(method, rows=2)
    started = start_batch(engine.session, batch)
    sizes = np.array([len(question) for question in batch.target.questions])
    state, cache = started.state, started.drafting.cache
    assert state.target_tail.length.tolist() == (sizes - 1).tolist()
    assert state.newest[:, 0].tolist() == [question[-1] for question in batch.target.questions]
    assert state.last_tokens.tolist() == [question[-2:] for question in (batch.drafter or batch.target).questions]
    if batch.method.drafts_from_passages:
        tail = cache[0] if batch.method.looks_up else cache
        own = np.array([len(question) for question in batch.drafter.questions])
        assert tail.length.tolist() == (own - 2).tolist()
    assert started.context is batch.target.context.cache


@pytest.mark.parametrize("method", ["lc", "sd"])
def test_a_tail_has_a_slot_for_every_token_of_question_and_answer(engine, planned, method):
    """What does not fit is dropped: the end of the answer would not know the words before it."""
    batch = planned(method)
    for size, capacity in ((40, 64), (41, 128)):
        asked = dataclasses.replace(batch.target, questions=[[5] * size])
        drafter = batch.drafter and dataclasses.replace(batch.drafter, questions=[[5] * size])
        started = start_batch(engine.session, dataclasses.replace(batch, target=asked, drafter=drafter))
        tails = [started.state.target_tail] + ([started.drafting.cache] if drafter else [])
        assert all(tail.capacity == capacity >= size + 24 for tail in tails)
    assert started.state.output.shape == (1, 32)


def test_rows_that_fill_a_batch_up_decode_nothing(engine, planned):
    """Copies of the first row, for a mesh that splits rows evenly: they would keep the others waiting."""
    state = start_batch(engine.session, dataclasses.replace(planned("lc", rows=3), rows=2)).state
    assert state.budget.tolist() == [24, 24, 0] and state.done.tolist() == [False, False, True]


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_that_transfer_have_an_eta(engine, method):
    """sd is lossless because its eta is 0, whatever the configuration says."""
    method, config = get_method(method), engine.config
    speculation = dataclasses.replace(config.speculation, eta=7.0)
    controls = controls_of(method, speculation, config.sampling, (9, 2))
    assert controls.eta == (7.0 if method.name in ("rapid", "rapid+hd") else 0.0)
    assert controls.stop_ids.tolist() == [2, 9, *[-1] * 6]


@pytest.mark.parametrize("method, eta", [("sd", 0.0), ("magicdec", 0.0), ("lc", 0.0), ("rapid", 7.0)])
def test_a_batch_starts_with_the_settings_that_were_asked_for(engine, planned, method, eta):
    """Eta, temperature, top_k, top_p and stop ids reach the step, and greedy decoding is what temperature 0 means."""
    settings = dict(temperature=0.5, top_k=3, top_p=0.25, stop=("<s>",))
    controls = start_batch(engine.session, planned(method, eta=7.0, **settings)).controls
    assert controls.eta == eta and controls.stop_ids.tolist() == [1, 2, *[-1] * 6]
    warping = controls.warping
    assert (warping.temperature, warping.top_k, warping.top_p, warping.greedy) == (0.5, 3, 0.25, False)
    assert start_batch(engine.session, planned(method)).controls.warping.greedy


class Clock:
    """Stands still, but where a test moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_every_part_of_the_prefill_is_counted_once(engine, document, questions, planned, monkeypatch):
    """Seconds to the first token are the point of a comparison: a part that is left out makes a method look fast."""
    session = engine.session
    planned("rapid")  # passages that are read already
    clock = Clock()
    monkeypatch.setattr(batches, "time", clock)
    monkeypatch.setitem(document.__dict__, "prefilled", dataclasses.replace(document.prefilled, seconds=1.0))
    monkeypatch.setattr(document, "index_seconds", 1000.0)
    (passages,) = session.passages.items()
    monkeypatch.setitem(session.passages, passages[0], dataclasses.replace(passages[1], seconds=2.0))

    def decide(*args):
        clock.now += 4.0 + 10.0
        return Decision(4, 4, 0.8, 2.0, StepSeconds(1.0, 0.1)), 4.0

    retrieve = document.index.retrieve

    def find(*args, **kwargs):
        clock.now += 2000.0
        return retrieve(*args, **kwargs)

    monkeypatch.setattr(batches, "decide", decide)
    monkeypatch.setattr(type(document.index), "retrieve", lambda index, *args, **kwargs: find(*args, **kwargs))
    expected = {"lc": (1.0, 0.0), "rag": (2.0, 3000.0), "sd": (3.0, 3000.0), "rapid": (3.0, 3000.0), "hd": (1.0, 0.0)}
    for method, (prefill, retrieval) in expected.items():
        batch = planned(method)
        assert (batch.prefill_seconds, batch.retrieval_seconds) == (prefill, retrieval), method
    assert planned("sd", length_rule="all").prefill_seconds == 7.0, "what the length rule takes, without compilation"
    assert planned("sd", choose_gamma=True).prefill_seconds == 7.0
    assert planned("sd", rows=2).retrieval_seconds == 5000.0

    seconds = {1: 8.0, 2: 16.0}
    prefill_questions = batches.prefill_questions

    def read(*args, keep_out, **kwargs):
        return prefill_questions(*args, keep_out=keep_out, **kwargs)[0], seconds[keep_out]

    monkeypatch.setattr(batches, "prefill_questions", read)
    monkeypatch.setattr(type(session.programs), "timed", lambda programs, make: (make(), 32.0))
    for method, total in {
        "lc": 40.0,
        "rag": 40.0,
        "sd": 56.0,
        "rapid+hd": 56.0,
        "magicdec": 40.0,
        "pages": 40.0,
    }.items():
        assert start_batch(session, planned(method)).prefill_seconds == total, method


def test_the_seconds_of_an_answer_are_the_sums_that_they_say(engine, document, questions, monkeypatch):
    """The first token comes after retrieval, prefill and the first burst; the last one after the last burst."""
    from rapid_jax.engine import run as runs

    clock = Clock()
    monkeypatch.setattr(runs, "time", clock)
    monkeypatch.setattr(runs, "plan_batch", lambda *args: dataclasses.replace(
        plan_batch(*args), retrieval_seconds=100.0, prefill_seconds=200.0))  # fmt: skip
    monkeypatch.setattr(runs, "start_batch", lambda *args: dataclasses.replace(
        start_batch(*args), prefill_seconds=400.0))  # fmt: skip
    stream = document.stream(questions[0], "lc")
    clock.now = 5.0
    for _ in stream:
        clock.now += 1.0
    bursts = 24 // engine.config.burst_steps
    seconds = stream.answer.seconds
    assert (seconds.retrieval, seconds.prefill, seconds.first_token) == (100.0, 600.0, 700.0)
    assert 0 < seconds.decode <= bursts and seconds.load == engine.session.load_seconds
    assert seconds.to_dict()["total"] == 700.0 + seconds.decode


@pytest.mark.parametrize("method", ["lc", slow("rapid")])
def test_other_sampling_settings_compile_nothing(engine, document, questions, compilations, method):
    """A sweep over temperatures would compile for each of them; greedy decoding alone has a program of its own."""
    document.ask(questions[0], method, temperature=1.0)
    programs, events = engine.session.programs.count, len(compilations)
    settings = (
        dict(temperature=0.3),
        dict(temperature=1.0, top_k=5, top_p=0.9, seed=3),
        dict(temperature=1.5, top_k=1),
        dict(temperature=1.0, stop=("<s>", "<unk>", "never")),
        dict(temperature=1.0, eta=2.5),
    )
    said = [document.ask(questions[0], method, **one).token_ids for one in settings]
    assert (engine.session.programs.count, len(compilations)) == (programs, events)
    assert len({*said, document.ask(questions[0], method).token_ids}) > 2, "they must reach the step"


def test_a_step_that_is_greedy_is_another_program(engine, planned):
    """Only that is static of the settings: else a sampled answer would be served by the argmax."""
    session, shapes = engine.session, []
    for settings in (dict(temperature=0.0), dict(temperature=0.2), dict(temperature=1.0, top_k=3)):
        started = start_batch(session, planned("lc", **settings))
        shapes.append(str(batches.jax.tree.structure(started.controls)))
    assert shapes[0] != shapes[1] == shapes[2]


@pytest.mark.parametrize("model", ["target", "drafter"])
def test_numbers_that_are_not_finite_are_said_with_the_checkpoints_path(
    engine, document, questions, monkeypatch, model
):
    """Of two checkpoints a user must know which one to look at."""
    there = {name: dataclasses.replace(engine.target, path=f"/checkpoints/{name}") for name in ("target", "drafter")}
    for copy in there.values():
        copy.__dict__["tokenizer"] = engine.target.tokenizer
    other = Engine(dataclasses.replace(engine.session, **there))

    def decode(started, session):
        yield None
        raise NotFinite(model)

    monkeypatch.setattr(Started, "decode", decode)
    with pytest.raises(ValueError, match=re.escape(f"the {model} (/checkpoints/{model}) computes numbers")) as error:
        other.ask_many(other.read(document.text, prefill=False), questions[:1], "lc")
    assert "\n" not in str(error.value)


def test_a_broken_weight_ends_an_answer(engine, document_text, questions):
    """From the checkpoint to the line: no answer of zeros with a status of success."""
    params = dict(engine.target.params)
    params["final_norm"] = batches.jax.tree.map(lambda x: x.at[3].set(float("nan")), params["final_norm"])
    broken = dataclasses.replace(engine.target, params=params)
    broken.__dict__["tokenizer"] = engine.target.tokenizer
    session = dataclasses.replace(engine.session, target=broken, drafter=broken, passages={})
    document = Engine(session).read(document_text)
    with pytest.raises(NotFinite, match=re.escape(f"the target ({engine.target.path}) computes numbers")):
        document.ask(questions[0], "lc")


def test_prompts_of_rows_that_share_a_context_and_of_rows_that_do_not(engine, planned):
    """Databases are made of them, and reported lengths: a row must not be given another one's passages."""
    batch = planned("rapid", rows=3)
    document, passages = batch.target.context.rows, batch.drafter.context.rows
    assert len(document) == 1 and len(passages) == 3
    assert batch.target.prompts == [[*document[0], *question] for question in batch.target.questions]
    assert batch.drafter.prompts == [[*row, *q] for row, q in zip(passages, batch.drafter.questions, strict=True)]
    for given in (batch.target, batch.drafter):
        assert given.prompt_tokens == [len(prompt) for prompt in given.prompts]
    assert batch.drafter_tokens == batch.drafter.prompt_tokens
    alone = ModelInput(engine.target, batch.target.context, batch.target.questions[:1])
    assert alone.contexts == list(document)
