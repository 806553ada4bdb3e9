"""Load, read, ask: documents read once, batches, streams, limits and refusals, on tiny random checkpoints."""

import copy
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from rapid_jax.config import RetrievalConfig, SamplingConfig
from rapid_jax.decoding.apart import verify_draft
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.prompt import Prompt
from tests.marks import slow


@pytest.fixture(scope="module")
def reconfigured(engine):
    """The engine with other settings, sharing its weights and programs."""

    def make(**changes):
        other = Engine(dataclasses.replace(engine.session, config=dataclasses.replace(engine.config, **changes)))
        other.session.programs = engine.session.programs
        return other

    return make


@pytest.fixture(scope="module")
def assert_same_tokens(engine, document):
    """Token for token, but where the target's logits of both candidates are a near-tie (teacher forcing)."""

    def check(answer, expected):
        for index, (a, b) in enumerate(zip(answer.token_ids, expected.token_ids, strict=True)):
            if a != b:
                prompt = Prompt(engine.target.tokenizer, engine.config.prompt).question(expected.question)
                ids = document.head + document.tokenized.tokens + prompt + list(expected.token_ids[:index])
                logits = engine.target.logits([ids])[0, -1]
                assert abs(logits[a] - logits[b]) < 1e-4, f"token {index}: {a} instead of {b}"
                return

    return check


@pytest.fixture(scope="module")
def plain(document, questions):
    return [document.ask(question, "lc") for question in questions]


def test_greedy_speculation_gives_the_tokens_of_the_target_alone(document, questions, plain, assert_same_tokens):
    """sd is lossless: whatever the retrieved passage says, the answer is lc's."""
    drafted = [document.ask(question, "sd") for question in questions]
    for answer, expected in zip(drafted, plain, strict=True):
        assert_same_tokens(answer, expected)
    assert 0 < sum(a.acceptance.accepted for a in drafted) < sum(a.acceptance.tested for a in drafted)


@pytest.mark.parametrize(
    "options", [{}, slow(dict(window=4096)), slow(dict(early_stop=True, first_candidates=2, eta=0))]
)
def test_the_target_alone_is_not_changed_by_drafts_over_its_window(
    document, questions, plain, assert_same_tokens, options
):
    """magicdec is lossless, and a window over the whole document accepts everything."""
    options = {"window": 64, "temperature": 0.0, **options}
    drafted = [document.ask(question, "magicdec", **options) for question in questions]
    for answer, expected in zip(drafted, plain, strict=True):
        assert_same_tokens(answer, expected)
        whole = min(answer.target_tokens, 4 + options["window"])
        assert (answer.drafter_tokens, answer.passages) == (whole, expected.passages)
    accepted, tested = (sum(getattr(a.acceptance, name) for a in drafted) for name in ("accepted", "tested"))
    assert accepted == tested if options["window"] == 4096 else 0 < accepted < tested


@pytest.mark.slow
def test_a_window_over_everything_draws_what_the_target_would(engine, document, questions):
    """Sampled too, q is p there: no draft is rejected, in a batch whose rows differ in length."""
    answers = engine.ask_many(document, questions[:3], "magicdec", temperature=1.0)
    assert all(answer.acceptance.accepted == answer.acceptance.tested > 0 for answer in answers)


def test_lc_tokens_are_the_argmax_of_one_plain_forward(engine, document, questions, plain):
    """Chunked prefill, caches and steps against one causal forward over everything."""
    prompt = Prompt(engine.target.tokenizer, engine.config.prompt)
    before = document.head + document.tokenized.tokens + prompt.question(questions[0])
    tokens = list(plain[0].token_ids)
    logits = np.asarray(engine.target.logits([before + tokens]))[0, len(before) - 1 : -1]
    chosen = np.take_along_axis(logits, np.array(tokens)[:, None], axis=1)[:, 0]
    assert (logits.max(-1) - chosen < 1e-4).all()


def test_a_document_is_prefilled_once_for_all_questions(engine, document_text, questions):
    """Prefill is most of the cost: the second question must not pay it again."""
    chunks = []
    document = engine.read(document_text, prefill=False, progress=lambda *read: chunks.append(read))
    assert not chunks and document.prefill_seconds == 0
    document.ask(questions[0], "rag")
    assert not chunks, "retrieval alone never needs the whole document"
    for question in questions[:2]:
        document.ask(question, "lc")
        document.ask(question, "rapid")
    assert [read for read, _ in chunks] == [512, 1024, document.num_tokens] and document.prefill_seconds > 0


def test_methods_with_the_same_passages_read_them_once(engine, document, questions):
    """Comparing rag, sd and rapid would otherwise spend most of its time on one and the same prefill."""
    first = document.ask(questions[0], "rag")
    (kept,) = engine.session.passages.values()
    again = document.ask(questions[0], "rag")
    assert next(iter(engine.session.passages.values())).cache is kept.cache
    assert again.token_ids == first.token_ids and again.seconds.prefill >= kept.seconds > 0
    document.ask(questions[0], "rapid")
    assert next(iter(engine.session.passages.values())).cache is kept.cache
    document.ask(questions[1], "rapid")
    (other,) = engine.session.passages.values()
    assert other.cache is not kept.cache, "other passages must be read"


def test_a_second_question_of_the_same_bucket_compiles_nothing(engine, document, questions, compilations):
    """Compiling takes seconds to minutes on a TPU; nothing at all may be compiled, inside the programs or beside them."""
    for method in ("lc", "rag", "sd", "rapid", "magicdec", "pages"):
        document.ask(questions[0], method)
        programs, events = len(engine.session.programs.compiled), len(compilations)
        answer = document.ask(questions[1], method, eta=3.0)
        assert (len(engine.session.programs.compiled), len(compilations)) == (programs, events), method
        assert answer.seconds.compile == 0.0
    assert jax.jit(lambda x: x + len(compilations))(1) and len(compilations) > events, "the counter must count"


@pytest.mark.parametrize("method", ["lc", "rapid"])
def test_a_batch_gives_what_each_question_gives_alone(engine, document, questions, assert_same_tokens, method):
    """Greedy rows do not see each other, though their questions and passages differ in length."""
    batch = engine.ask_many(document, questions[:3], method)
    for answer, question in zip(batch, questions, strict=False):
        alone = document.ask(question, method)
        assert (answer.question, answer.batch_size) == (question, 3)
        if method == "lc":
            assert_same_tokens(answer, alone)
        else:
            assert answer.token_ids == alone.token_ids
        assert answer.passages == alone.passages
        assert (answer.target_tokens, answer.drafter_tokens) == (alone.target_tokens, alone.drafter_tokens)


def test_stream_pieces_join_to_the_answer(document, questions):
    """What was shown is what is reported, but for space at the ends."""
    stream = document.stream(questions[0], "rapid")
    pieces = list(stream)
    assert "".join(pieces).strip() == stream.answer.text
    assert len(pieces) > 1
    assert stream.answer.text == document.ask(questions[0], "rapid").text


def test_the_answer_is_not_there_before_the_end_of_its_stream(document, questions):
    """Half an answer must not pass for a whole one; a stream that was left can be read on."""
    stream = document.stream(questions[0], "lc")
    for read in (lambda: None, lambda: next(iter(stream))):
        read()
        with pytest.raises(RuntimeError, match="before its stream has been read to the end"):
            _ = stream.answer
    assert list(stream)
    answer = stream.answer
    assert list(stream) == [] and stream.answer == answer
    assert len(answer.token_ids) == 24


def test_stop_strings_end_the_answer_before_themselves(document, plain, questions):
    """Also one that spans tokens of two bursts; the text is the full answer's, cut."""
    full = plain[0].text
    starts = [i for i in range(1, 4) if full[i : i + 5].isascii() and full.find(full[i : i + 5]) == i]
    start = starts[-1]
    stop = full[start : start + 5]
    stream = document.stream(questions[0], "lc", stop=(stop, "never"))
    text = "".join(stream)
    assert text.strip() == stream.answer.text == full[:start].strip()
    assert stream.answer.finish_reason == "stop_string"
    assert stream.answer.token_ids == plain[0].token_ids[: len(stream.answer.token_ids)]
    assert len(stream.answer.token_ids) < 24


def test_a_stop_id_ends_the_answer(engine_config, engine, tiny_checkpoint, document_text, plain, questions, tmp_path):
    """The eos ids of generation_config.json count; the id is reported and its text is not."""
    tokens = plain[0].token_ids
    stop = next(token for token in tokens[2:] if token != tokens[0])
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, stop]}))
    other = Engine.load(str(directory), config=engine_config)
    other.session.programs = engine.session.programs
    answer = other.read(document_text).ask(questions[0], "sd")
    assert answer.finish_reason == "stop"
    assert answer.token_ids == tokens[: tokens.index(stop) + 1]
    assert answer.text == engine.target.tokenizer.decode(answer.token_ids[:-1]).strip()


def test_sampled_answers_repeat_with_their_seed(document, questions):
    """A seed makes a run repeatable; another one gives another answer."""
    settings = dict(temperature=1.0, top_k=20, top_p=0.95)
    answers = [document.ask(questions[0], "rapid", seed=seed, **settings) for seed in (3, 3, 2**32 - 1)]
    assert answers[0].token_ids == answers[1].token_ids != answers[2].token_ids
    assert answers[0].settings["temperature"] == 1.0 and answers[0].settings["seed"] == 3


def test_self_speculation_holds_the_weights_once(engine):
    """A second copy of 8B parameters would not fit."""
    assert engine.drafter is engine.target


@pytest.mark.slow
def test_upward_speculation_with_a_larger_drafter(
    make_tiny_checkpoint, engine_config, engine, document_text, questions, plain, assert_same_tokens
):
    """Another width, depth and vocabulary padding: greedy drafts are still verified to lc's tokens."""
    drafter = make_tiny_checkpoint(seed=7, width=64, num_layers=3, vocab_size=272)
    upward = Engine.load(drafter=str(drafter), config=engine_config)
    upward.session.programs = engine.session.programs
    assert upward.drafter.config.width == 64
    answer = upward.read(document_text).ask(questions[0], "sd")
    assert_same_tokens(answer, plain[0])
    assert answer.acceptance.proposed > 0


def test_vocabularies_that_differ_are_refused(make_tiny_checkpoint, engine_config, tiny_tokenizer):
    """Token ids of the drafter would mean other words."""
    drafter = make_tiny_checkpoint(seed=8)
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["<extra>"])
    other.save_pretrained(drafter)
    with pytest.raises(
        ValueError, match="target and drafter need the same vocabulary: vocabularies have 259 and 260"
    ) as e:
        Engine.load(drafter=str(drafter), config=engine_config)
    assert "\n" not in str(e.value)


def test_truncation_keeps_both_ends_and_says_how_much_is_gone(reconfigured, document_text, caplog):
    """The text that retrieval sees is the text that the target reads."""
    with caplog.at_level("WARNING", logger="absl"):
        document = reconfigured(max_context_tokens=401).read(document_text, prefill=False)
    size = len(document_text.encode())
    assert document.tokenized.text == document_text[:201] + document_text[-200:]
    assert len(document.tokenized.tokens) == 401 and document.tokenized.truncated_tokens == size - 401
    assert document.num_tokens == 402
    assert f"{size} tokens, the limit is 401: {size - 401} tokens" in caplog.text


def test_truncation_is_refused_where_it_is_an_error(reconfigured, document_text):
    """Before any prefill."""
    with pytest.raises(ValueError, match="the limit is 400: shorten it, or set truncation='middle'"):
        reconfigured(max_context_tokens=400, truncation="error").read(document_text)


@pytest.mark.parametrize("method", ["rapid", slow("sd"), "rag", slow("rapid+hd")])
def test_a_question_on_which_the_document_has_nothing_can_leave_the_context_empty(
    reconfigured, document_text, questions, method
):
    """As in the published evaluation: the drafter then reads the question alone, and the answer names no passage."""
    retrieval = RetrievalConfig(chunk_tokens=250, threshold=0.99, below_threshold="empty")
    other = reconfigured(retrieval=retrieval)
    answer = other.read(document_text).ask(questions[0], method)
    assert (answer.below_threshold, answer.passages) == (True, ())
    assert answer.token_ids
    assert answer.to_dict()["context"]["passages"] == []


@pytest.mark.parametrize("from_truncated", [True, False])
def test_the_drafter_reads_what_was_cut_only_if_asked_to(reconfigured, document_text, from_truncated):
    """Otherwise the drafter would know what its verifier cannot."""
    half = len(document_text) // 2
    text = f"{document_text[:half]} Zorblax the wizard sleeps. {document_text[half:]}"
    retrieval = RetrievalConfig(chunk_tokens=100, max_chunks=1, from_truncated=from_truncated)
    document = reconfigured(max_context_tokens=400, retrieval=retrieval).read(text, prefill=False)
    found = document.index.retrieve("Zorblax the wizard")
    assert ("Zorblax" in found.text) == (not from_truncated)


def test_a_document_longer_than_the_model_is_cut_to_what_it_leaves_free(reconfigured):
    """8,192 positions less head, question reserve, answer and the longest draft of any method."""
    document = reconfigured().read("x" * 9000, prefill=False)
    assert len(document.tokenized.tokens) == 8192 - 1 - 512 - 24 - 32 - 1
    assert document.tokenized.truncated_tokens == 9000 - len(document.tokenized.tokens)


def test_an_answer_that_leaves_no_room_for_a_document_is_refused(reconfigured, document_text):
    """The line says what to change."""
    with pytest.raises(ValueError, match="leaves no room for a document beside 8000 new tokens; ask for fewer"):
        reconfigured(sampling=SamplingConfig(max_new_tokens=8000)).read(document_text)


@pytest.mark.parametrize("method", ["lc", "rapid"])
def test_an_answer_beyond_the_models_positions_is_refused_before_decoding(document, questions, method):
    """RoPE positions past the trained ones give garbage; max_context_tokens is named as the remedy."""
    with pytest.raises(ValueError, match="the target would need .* positions .*, it has 8192: set max_context_tokens"):
        document.stream(questions[0], method, max_new_tokens=7000)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(question=""), "the question is empty"),
        (dict(question="Why?", method="rapids"), "unknown method 'rapids'; known: lc, rag, sd, rapid"),
        (dict(question="Why?", gama=3), "unknown setting 'gama'; known: .*gamma"),
        (dict(question="Why?", gamma=0), "gamma must be at least 1"),
        (dict(question="Why?", top_p=2.0), "top_p must be in"),
        (dict(question="Why?", retrieval_query=" "), "the retrieval query is empty"),
    ],
)
def test_a_bad_question_is_refused_before_anything_slow(document, arguments, message):
    """In one line, when the stream is made and not when it is read."""
    with pytest.raises(ValueError, match=message) as error:
        document.stream(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "questions, more, message",
    [
        ([], {}, "questions must be a list of at least one question"),
        ("Why?", {}, "questions must be a list of at least one question, got 'Why\\?'"),
        (["Why?", " "], {}, "the question is empty"),
        (["Why?"], {"retrieval_queries": ["a", "b"]}, "2 retrieval queries for 1 questions"),
    ],
)
def test_a_bad_batch_is_refused(engine, document, questions, more, message):
    """One bad row must not fail after the others were answered."""
    with pytest.raises(ValueError, match=message):
        engine.ask_many(document, questions, "rapid", **more)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_document_is_refused(engine, text):
    """Before tokenising."""
    with pytest.raises(ValueError, match="the document is empty"):
        engine.read(text)


@pytest.mark.parametrize("method", ["lc", "rag", "sd", "rapid"])
def test_the_answer_as_a_json_object(document, questions, method):
    """Other tools read these keys."""
    answer = json.loads(json.dumps(document.ask(questions[0], method).to_dict()))
    assert {
        "method", "text", "token_ids", "finish_reason", "context", "seconds", "tokens_per_second", "acceptance", "settings",
        "versions",
    } <= set(answer)  # fmt: skip
    assert {"target_tokens", "drafter_tokens", "truncated_tokens", "passages"} <= set(answer["context"])
    assert set(answer["seconds"]) == {"first_token", "load", "compile", "retrieval", "prefill", "decode", "total"}
    assert set(answer["acceptance"]) == {
        "steps", "proposed", "tested", "accepted", "tokens_per_step", "kept_over_tested", "kept_over_proposed",
        "drafter_forwards", "forwards_per_drafted_token", "accepted_by_source",
    }  # fmt: skip
    seconds = answer["seconds"]
    assert seconds["total"] == pytest.approx(seconds["retrieval"] + seconds["prefill"] + seconds["decode"], abs=1e-5)
    assert all(value >= 0 for value in seconds.values()) and seconds["decode"] > 0
    assert answer["method"] == method and answer["finish_reason"] == "length" and len(answer["token_ids"]) == 24
    assert answer["tokens_per_second"] == pytest.approx(24 / seconds["decode"], rel=1e-3)
    drafts = method in ("sd", "rapid")
    assert (answer["context"]["drafter_tokens"] > 0) == drafts == (answer["acceptance"]["proposed"] > 0)
    assert bool(answer["context"]["passages"]) == (method != "lc")
    assert answer["settings"]["gamma"] == (4 if drafts else 0)
    assert answer["settings"]["eta"] == (10.0 if method == "rapid" else 0.0)
    assert {"rapid_jax", "jax", "python", "device"} <= set(answer["versions"])


def test_acceptance_figures_are_consistent(document, questions):
    """tokens_per_step times steps is the answer's length."""
    for question in questions:
        answer = document.ask(question, "rapid")
        a = answer.acceptance
        assert a.accepted <= a.tested <= a.proposed == 4 * a.steps
        assert a.generated == len(answer.token_ids) <= a.accepted + a.steps
        assert answer.to_dict()["acceptance"]["tokens_per_step"] == pytest.approx(24 / a.steps, abs=1e-4)


def test_passages_are_quoted_from_the_document(document, document_text, questions):
    """--show_passages prints them with offsets."""
    (passage,) = document.ask(questions[0], "rag").passages
    assert document_text[passage.start : passage.end] == passage.text and passage.num_tokens <= 250


def test_the_retrieval_query_can_differ_from_the_question(document):
    """Answer choices mislead retrieval."""
    answers = [document.ask("Who? A: Sava B: Odan", "rag", retrieval_query=q) for q in ("ferry Harrow", "house 5")]
    alone = document.ask("Who? A: Sava B: Odan", "rag")
    assert answers[0].question == alone.question
    assert len({a.passages for a in (*answers, alone)}) > 1


def test_unicode_documents_and_questions(engine):
    """Emoji, accents and characters of several bytes, in the buckets of the other tests."""
    line = "Zoë Ünal 🙂 keeps 三つの鍵 in house №7. "
    document = engine.read(line * 24)
    assert 1024 < document.num_tokens <= 1536
    for method in ("lc", "rapid"):
        answer = document.ask("Où est Zoë 🙂?", method)
        assert len(answer.token_ids) == 24
        json.dumps(answer.to_dict())
    assert "三つの鍵" in answer.passages[0].text


@pytest.mark.parametrize(
    "mesh, message",
    [
        ((4, 2, 2), r"mesh \(4, 2, 2\) needs 16 devices, there are 8"),
        ((1, 1, 8), "mesh axis model=8 does not divide the model's 4 key-value heads"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(engine_config, mesh, message):
    """Before any weight is read."""
    read = []
    with pytest.raises(ValueError, match=message) as error:
        Engine.load(config=dataclasses.replace(engine_config, mesh=mesh), progress=lambda *done: read.append(done))
    assert "\n" not in str(error.value) and not read


@pytest.mark.parametrize("methods", [slow(("lc", "rapid+hd")), slow(("lc", "rapid")), slow(("rapid+hd", "hd"))])
def test_rows_and_heads_split_over_eight_devices(engine_config, document_text, document, questions, methods):
    """Three rows on data=2, heads on model=4: the tokens of one device, whoever drafts, and for a single row.

    Without the flag models.sharding.IN_ORDER the devices of the last one wait for one another for ever.
    """
    split = Engine.load(config=dataclasses.replace(engine_config, mesh=(2, 1, 4)))
    on_mesh = split.read(document_text)
    assert len(on_mesh.context.k[0].sharding.device_set) == 8
    assert on_mesh.context.k[0].sharding.shard_shape(on_mesh.context.k[0].shape)[1] == 1
    for method in methods:
        answers = split.ask_many(on_mesh, questions[:3], method)
        assert len(answers) == 3
        for answer, question in zip(answers, questions, strict=False):
            assert answer.token_ids == document.ask(question, method).token_ids
    assert on_mesh.ask(questions[3], "lc").token_ids == document.ask(questions[3], "lc").token_ids


@pytest.mark.slow
def test_weights_split_over_context_and_model(engine_config, document_text, document, questions):
    """Every weight over all eight devices of a (1, 2, 4) mesh gives the tokens of one device."""
    split = Engine.load(config=dataclasses.replace(engine_config, mesh=(1, 2, 4)))
    on_mesh = split.read(document_text)
    for method in ("lc", "rapid"):
        assert on_mesh.ask(questions[0], method).token_ids == document.ask(questions[0], method).token_ids


@pytest.mark.slow
def test_a_drafter_on_devices_of_its_own(engine_config, document_text, document, questions):
    """Draft and verify as two programs on two devices: the tokens and counts of one program."""
    apart = Engine.load(config=dataclasses.replace(engine_config, drafter_mesh=(1, 1, 1)))
    target, drafter = (jax.tree.leaves(model.params)[0].sharding.device_set for model in (apart.target, apart.drafter))
    assert len(target) == len(drafter) == 1 and not target & drafter
    answer, expected = (read.ask(questions[0], "rapid") for read in (apart.read(document_text), document))
    assert answer.token_ids == expected.token_ids
    assert answer.acceptance == expected.acceptance


BOTH = dict(early_stop=True, first_candidates=2, eta=0.0)
APART = [dict(early_stop=True), dict(first_candidates=2, eta=0.0)]


@pytest.mark.parametrize(
    "mesh, drafter_mesh, options",
    [
        ((1, 1, 1), (1, 1, 1), [BOTH, *APART]),
        ((1, 2, 2), (2, 1, 2), [BOTH, *APART]),
    ],
)
@pytest.mark.slow
def test_a_drafter_on_devices_of_its_own_with_every_option(
    engine_config, document_text, engine, document, questions, mesh, drafter_mesh, options
):
    """Draft and verify as two programs on devices that do not overlap: the tokens and counts of one program."""
    apart = Engine.load(config=dataclasses.replace(engine_config, mesh=mesh, drafter_mesh=drafter_mesh))
    target, drafter = (jax.tree.leaves(model.params)[0].sharding.device_set for model in (apart.target, apart.drafter))
    assert len(drafter) == np.prod(drafter_mesh) and not target & drafter
    there = apart.read(document_text)
    for settings in (dict(), dict(temperature=1.0), *options):
        method = "sd" if settings.get("first_candidates") else "rapid"
        answers = apart.ask_many(there, questions[:2], method, **settings)
        expected = engine.ask_many(document, questions[:2], method, **settings)
        for ours, theirs in zip(answers, expected, strict=True):
            assert ours.token_ids == theirs.token_ids
            forwards = {"drafter_forwards": 0} if settings.get("early_stop") else {}  # of the batch's longest draft
            assert dataclasses.replace(ours.acceptance, **forwards) == dataclasses.replace(
                theirs.acceptance, **forwards
            )
    four = apart.ask_many(there, questions, "rapid")
    expected = [answer for two in (questions[:2], questions[2:]) for answer in engine.ask_many(document, two, "rapid")]
    assert [answer.token_ids for answer in four] == [answer.token_ids for answer in expected]
    batches = {key[3][-1][0][0] for key in apart.session.programs.compiled if key[0] is verify_draft}
    assert batches == ({1, 2} if mesh == (1, 1, 1) else {2}), "halves of the batch are decoded in turn"
    assert apart.ask_many(there, questions[:2], "hd")[0].token_ids == document.ask(questions[0], "hd").token_ids


@pytest.mark.parametrize(
    "drafter_mesh, message",
    [
        ((1, 1, 8), "drafter_mesh, of the devices behind the target's 4: mesh .1, 1, 8. needs 8 devices, there are 4"),
        ((1, 3, 1), "context=3 does not divide the model's 32 width"),
    ],
)
def test_a_drafters_mesh_that_does_not_fit_is_refused_in_one_line(engine_config, drafter_mesh, message):
    """Before any weight is read."""
    config = dataclasses.replace(engine_config, mesh=(1, 2, 2), drafter_mesh=drafter_mesh)
    with pytest.raises(ValueError, match=message) as error:
        Engine.load(config=config)
    assert "\n" not in str(error.value)


def test_databases_of_the_drafter_need_the_targets_devices(engine_config, document_text, questions):
    """Said before anything is read."""
    apart = Engine.load(config=dataclasses.replace(engine_config, drafter_mesh=(1, 1, 1)))
    with pytest.raises(ValueError, match="rapid.hd does not take a drafter_mesh"):
        apart.read(document_text, prefill=False).ask(questions[0], "rapid+hd")
