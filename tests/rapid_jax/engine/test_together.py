"""Several documents in one batch: every row's answer is the one that its question gets alone, whoever sits beside it."""

import dataclasses

import jax
import numpy as np
import pytest

from models.memory import TooLittleMemory
from rapid_jax.engine import together
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.together import read_together
from tests.marks import quick, slow

METHODS = ("lc", "rag", "sd", "rapid", "hd", "pld", "copy", "magicdec", "pages", "rapid+hd")
MODELS_DRAFT = ("sd", "rapid", "magicdec", "pages")  # what they draft does not depend on the row, nor on a clock
SAMPLED = dict(temperature=1.0, seed=3)


def texts_of(document_text):
    """Three texts whose lengths end in different chunks of a prefill."""
    return document_text, document_text[:700], document_text[300:850]


@pytest.fixture(scope="module")
def documents(engine, document, document_text):
    """The first one has been read; the others are read for a batch."""
    return [document, *(engine.read(text, prefill=False) for text in texts_of(document_text)[1:])]


@pytest.fixture(scope="module")
def read_alone(engine, documents, document_text):
    """The same three, each in a cache of its own."""
    return [documents[0], *map(engine.read, texts_of(document_text)[1:])]


def assert_same(answer, alone, document, engine):
    """Token for token, but where the target's logits of both candidates are a near-tie (teacher forcing)."""
    for index, (a, b) in enumerate(zip(answer.token_ids, alone.token_ids, strict=True)):
        if a != b:
            question = document.prompt(engine.target).question(alone.question)
            logits = engine.target.logits([document.token_ids + question + list(alone.token_ids[:index])])[0, -1]
            assert abs(logits[a] - logits[b]) < 1e-4, f"token {index}: {a} instead of {b}"
            return


@pytest.mark.parametrize("method", quick(METHODS, "lc", "rapid", "pages"))
def test_a_greedy_answer_is_that_of_its_question_alone(engine, documents, read_alone, questions, method):
    """Its tokens, its passages and its counts of what was read, though the rows' documents differ in length."""
    batch = engine.ask_batch(list(zip(documents, questions, strict=False)), method)
    for answer, document, question in zip(batch, read_alone, questions, strict=False):
        alone = document.ask(question, method)
        assert_same(answer, alone, document, engine)
        assert (answer.question, answer.batch_size, answer.passages) == (question, 3, alone.passages)
        assert (answer.target_tokens, answer.drafter_tokens) == (alone.target_tokens, alone.drafter_tokens)
        assert answer.settings.get("retrieval") == alone.settings.get("retrieval")
        assert answer.acceptance == alone.acceptance or method not in MODELS_DRAFT, "a drafter has read something else"
    assert len({answer.target_tokens for answer in batch}) > 1


@pytest.mark.parametrize("method", quick(METHODS, "sd"))
def test_a_sampled_answer_is_that_of_its_row_whoever_sits_beside_it(engine, documents, read_alone, questions, method):
    """Keys fold in the row: row b draws what the same question draws in row b of a batch about its document alone."""
    batch = engine.ask_batch(list(zip(documents, questions, strict=False)), method, **SAMPLED)
    for row, (document, question) in enumerate(zip(read_alone, questions, strict=False)):
        alone = engine.ask_many(document, [question] * 3, method, **SAMPLED)[row]
        assert batch[row].token_ids == alone.token_ids
    assert batch[0].token_ids == documents[0].ask(questions[0], method, **SAMPLED).token_ids


def test_a_document_may_come_twice(engine, documents, questions):
    """Each time with a question of its own, in a row of its own."""
    rows = [(documents[1], questions[0]), (documents[0], questions[1]), (documents[1], questions[2])]
    alone = [engine.ask_batch([row], "lc")[0].token_ids for row in rows]
    assert [answer.token_ids for answer in engine.ask_batch(rows, "lc")] == alone
    same = [(documents[0], questions[0]), (documents[0], questions[1])]
    shared = engine.ask_many(documents[0], questions[:2], "lc")
    assert [a.token_ids for a in engine.ask_batch(same, "lc")] == [a.token_ids for a in shared]


def test_documents_are_read_once_for_all_methods_and_copied_where_they_have_been_read(engine, document_text, questions):
    """Prefill is most of the cost, and a benchmark asks the same batch with one method after another."""
    chunks = {name: [] for name in "abc"}
    a, b, c = (
        engine.read(text, prefill=name == "a", progress=lambda *done, name=name: chunks[name].append(done))
        for name, text in zip("abc", texts_of(document_text), strict=True)
    )
    before = len(chunks["a"])
    rows = [(a, questions[0]), (b, questions[1]), (c, questions[2]), (b, questions[3])]
    first = engine.ask_batch(rows, "lc")
    (held,) = engine.session.together.values()
    assert held.cache.k[0].shape[0] == 4 and held.lengths == (a.num_tokens, b.num_tokens, c.num_tokens, b.num_tokens)
    engine.ask_batch(rows, "pld")
    assert next(iter(engine.session.together.values())) is held
    assert [done for done, _ in chunks["b"]] == [512, b.num_tokens], "once, for two rows and two methods"
    assert len(chunks["a"]) == before and (a.is_read, b.is_read, c.is_read) == (True, False, False)
    assert first[0].seconds.prefill >= held.seconds > a.prefill_seconds > 0
    b.ask(questions[0], "lc")
    assert not engine.session.together, "another document needs the room"


def test_what_was_read_together_is_not_taken_for_other_documents(engine, documents, questions):
    """Rows in another order are other rows."""
    session, rows = engine.session, documents[:2]
    held = read_together(session, rows)
    assert read_together(session, rows) is held
    assert read_together(session, rows[::-1]).lengths == held.lengths[::-1]
    assert engine.with_drafter(str(engine.target.path)).session.together is session.together, "not held twice"


def test_each_document_keeps_what_was_said_about_it(engine, document_text, questions):
    """Copies of another document's answer would be read as this one's, and trust shown by rows of another."""
    copying = dataclasses.replace(engine.config.copying, lengths=(2, 5), earlier_answers=100)
    remembering = Engine(
        dataclasses.replace(engine.session, config=dataclasses.replace(engine.config, copying=copying))
    )
    a, b = (remembering.read(text, prefill=False) for text in texts_of(document_text)[:2])
    said = remembering.ask_batch([(a, questions[0]), (b, questions[1]), (a, questions[2])], "lc")
    assert a.copied_before.tokens == (*said[0].token_ids, *said[2].token_ids)
    assert b.copied_before.tokens == said[1].token_ids
    again = remembering.ask_batch([(a, questions[0]), (b, questions[1])], "copy")
    assert [answer.token_ids for answer in again] == [answer.token_ids for answer in said[:2]]
    assert all(sum(document.copied_before.shown[1]) > 0 for document in (a, b))


def test_conversations_are_asked_together(engine, questions):
    """They have nothing to retrieve from, in a batch too."""
    turns = [
        [{"role": "user", "content": text}] for text in ("Hello there.", "Hi, how are the lamps in house 9 doing?")
    ]
    rows = [(engine.converse(turn), turn[-1]["content"]) for turn in turns]
    alone = [document.ask(question, "lc").token_ids for document, question in rows]
    assert [answer.token_ids for answer in engine.ask_batch(rows, "lc")] == alone
    with pytest.raises(ValueError, match="method rapid retrieves, and a conversation has no document"):
        engine.ask_batch(rows, "rapid")


def test_too_little_memory_is_found_before_anything_is_read(engine, document_text, questions, monkeypatch):
    """With the bytes and what to do. Rows are counted in the format that they are kept in, the reading in floats."""
    texts = texts_of(document_text)
    documents = [engine.read(text, prefill=False, progress=lambda *_: pytest.fail("it was read")) for text in texts]
    rows = list(zip(documents, questions, strict=False))
    token = 2 * engine.target.config.num_layers * engine.target.config.num_kv_heads * engine.target.config.head_dim * 4
    needed = (3 + 1) * 1536 * token
    monkeypatch.setattr(together, "free_bytes", lambda mesh: needed - 1)
    with pytest.raises(TooLittleMemory) as error:
        engine.ask_batch(rows, "lc")
    assert str(error.value) == (
        f"documents of up to 1,536 tokens in 3 rows need {needed:,} bytes of a device for keys and values, "
        f"{needed - 1:,} are free: ask about fewer of them at once, set max_context_tokens lower, keep keys and values "
        'in fewer bits (kv="int8")'
    )
    assert not engine.session.together
    monkeypatch.setattr(together, "free_bytes", lambda mesh: needed)
    together.check_memory(engine.session, 3, 1536, 1501)
    small = dataclasses.replace(engine.session, config=dataclasses.replace(engine.config, kv="int8"))
    head = engine.target.config.head_dim
    monkeypatch.setattr(together, "free_bytes", lambda mesh: token * 3 * 1536 * (head + 4) // (4 * head))
    together.check_memory(small, 3, 1536, 0)
    with pytest.raises(TooLittleMemory, match="set max_context_tokens lower$"):
        together.check_memory(small, 3, 1536, 1501)
    apart = dataclasses.replace(small, config=dataclasses.replace(engine.config, drafter_mesh=(1, 1, 1)))
    monkeypatch.setattr(together, "free_bytes", lambda mesh: 2 * needed * 3 // 4 - 1)
    together.check_memory(engine.session, 3, 1536, 0)
    with pytest.raises(TooLittleMemory):
        together.check_memory(apart, 3, 1536, 0)  # two lanes, each with rows of its own
    monkeypatch.setattr(together, "free_bytes", lambda mesh: None)
    together.check_memory(engine.session, 10**6, 10**9, 0)  # a CPU does not say


def test_memory_is_that_of_one_device_of_the_mesh(engine, monkeypatch):
    """Rows, slots and heads are split; what is read beside them is on every device of the data axis."""
    mesh = type("Mesh", (), dict(shape=dict(data=2, context=2, model=2)))()
    decoder = type("Decoder", (), dict(mesh=mesh, dtype=engine.target.decoder.dtype))()
    target = type("Model", (), dict(decoder=decoder, config=engine.target.config))()
    session = dataclasses.replace(engine.session, target=target)
    token = 2 * engine.target.config.num_layers * engine.target.config.num_kv_heads * engine.target.config.head_dim * 4
    for free, fits in ((4 * 1024 * token // 8 + 512 * token // 4, True), (4 * 1024 * token // 8, False)):
        monkeypatch.setattr(together, "free_bytes", lambda mesh, free=free: free)
        if fits:
            together.check_memory(session, 4, 1024, 512)
        else:
            with pytest.raises(TooLittleMemory):
                together.check_memory(session, 4, 1024, 512)


@pytest.mark.parametrize("changes", [slow(dict(kv="int8")), slow(dict(attention="xla", dtype="bfloat16"))], ids=str)
def test_rows_are_kept_as_documents_are(engine_config, document_text, questions, changes):
    """Integers without their scales would be noise."""
    other = Engine.load(config=dataclasses.replace(engine_config, **changes))
    documents = [other.read(text) for text in texts_of(document_text)]
    for method in ("lc", "magicdec", "pages"):
        batch = other.ask_batch(list(zip(documents, questions, strict=False)), method)
        for answer, document, question in zip(batch, documents, questions, strict=False):
            alone = document.ask(question, method)
            assert answer.token_ids == alone.token_ids or "dtype" in changes
    (held,) = other.session.together.values()
    assert held.cache.k[0].dtype == documents[0].context.k[0].dtype


@pytest.mark.parametrize(
    "mesh, methods", [((2, 2, 2), ("magicdec", "pages")), slow((2, 1, 4), ("lc", "rapid", "hd", "copy"))]
)
def test_rows_are_split_over_a_mesh(engine_config, documents, read_alone, document_text, questions, mesh, methods):
    """Three rows on data=2; each is striped over the context axis as when it is read alone."""
    split = Engine.load(config=dataclasses.replace(engine_config, mesh=mesh))
    there = [split.read(text, prefill=False) for text in texts_of(document_text)]
    for method in methods:
        everything = dict(page_budget=4096)  # of fewer pages each shard chooses its share
        answers = split.ask_batch(list(zip(there, questions, strict=False)), method, **everything)
        assert len(answers) == 3
        for answer, document, question in zip(answers, read_alone, questions, strict=False):
            alone = document.ask(question, method, **everything)
            assert answer.token_ids == alone.token_ids, method
            assert answer.acceptance == alone.acceptance or method not in MODELS_DRAFT, (
                "drafts of slots of other tokens"
            )
    (held,) = split.session.together.values()
    k = held.cache.k[0]
    rows, heads, slots, _ = k.sharding.shard_shape(k.shape)
    assert (rows, heads, slots) == (4 // mesh[0], 4 // mesh[2], k.shape[2] // mesh[1])
    if mesh[1] == 1:
        return
    alone = split.read(texts_of(document_text)[1])
    np.testing.assert_array_equal(jax.device_get(held.cache.filled[1]), jax.device_get(alone.context.filled[0]))


@pytest.mark.slow
def test_two_lanes_of_a_drafter_on_devices_of_its_own(engine_config, read_alone, document_text, questions):
    """Each half of the batch is verified over the documents of its own rows."""
    apart = Engine.load(config=dataclasses.replace(engine_config, drafter_mesh=(1, 1, 1)))
    texts = texts_of(document_text)[:2]
    rows = [(apart.read(text, prefill=False), question) for text, question in zip(texts, questions, strict=False)]
    for answer, document in zip(apart.ask_batch(rows, "rapid"), read_alone, strict=False):
        assert answer.token_ids == document.ask(answer.question, "rapid").token_ids
