"""The runner on a tiny model: what is asked, of whom, and what a stopped run leaves to do."""

import dataclasses

import pytest

from models.memory import TooLittleMemory
from rapid_jax import Engine
from rapid_jax.config import EngineConfig, HierarchyConfig, RetrievalConfig, SamplingConfig, SpeculationConfig
from rapid_jax.engine import together
from rapid_jax.evaluation import distribution_shift
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.distribution_shift_table import shift_table
from rapid_jax.evaluation.results import FAILED, check_result
from rapid_jax.evaluation.runner import EvaluationPlan, run
from rapid_jax.evaluation.store import ResultStore, read_results
from rapid_jax.evaluation.variation import Variation, parse_sweep
from rapid_jax.retrieval.retriever import IndexedDocument
from tests.marks import slow

TEXT = " ".join(f"Sentence {n} says that stone {n} is heavy." for n in range(20))


class TwoDocuments:
    """Three items about one document, one about another, and a plain conversation with a second turn."""

    name, template, metrics, sampling, fingerprint = "made", "Read. {document}\n\n{question}", ("score",), {}, "x"

    def sources(self):
        yield Source("a", TEXT, tuple(self.item(f"a{n}") for n in range(3)))
        yield Source("b", TEXT.replace("stone", "river"), (self.item("b0"),))
        yield Source("c", "", (self.item("c0"),))

    def item(self, name):
        return Item(name, "first" if name != "a2" else "second", f"What of {name}?", f"stone {name}", "r", 6)

    def follow_up(self, item, answers):
        if item.id != "c0" or len(answers) > 1:
            return None
        turns = ("user", item.question), ("assistant", answers[0]), ("user", "And then?")
        return FollowUp(tuple({"role": role, "content": content} for role, content in turns), 4)

    def score(self, item, answers):
        return {"score": float(len(answers))}


class Conversations(TwoDocuments):
    """The conversation alone."""

    def sources(self):
        return iter(list(super().sources())[2:])


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    config = EngineConfig(
        target=str(tiny_checkpoint),
        prefill_chunk=256,
        retrieval=RetrievalConfig(chunk_tokens=128, threshold=-1.0),
        speculation=SpeculationConfig(gamma=3, length_rule="none"),
        hierarchy=HierarchyConfig(candidates=2, length=3, ngram=3, window=2),
        sampling=SamplingConfig(max_new_tokens=6),
    )
    return Engine.load(config=config)


class Documents(TwoDocuments):
    """Without the conversation, which nobody can retrieve from."""

    def sources(self):
        return iter(list(super().sources())[:2])


def answers(engine, directory, plan):
    with ResultStore(directory, {"benchmark": {"name": "made"}}) as store:
        return list(run(engine, plan, store))


@pytest.mark.slow
def test_every_item_is_asked_with_every_way_and_turn(engine, tmp_path):
    """An item that is left out, or a second turn that is dropped, would make a table of something else."""
    records = answers(engine, tmp_path, EvaluationPlan(TwoDocuments(), 0, ["lc"], [Variation()], 2))
    assert [record["item"] for record in records] == ["a0", "a1", "a2", "b0", "c0"]
    assert [len(record["turns"]) for record in records] == [1, 1, 1, 1, 2]
    assert records[-1]["scores"] == {"score": 2.0}
    assert [record["batch"] for record in records][1:3] == [
        {"first": "a0", "size": 2, "row": 1},
        {"first": "a2", "size": 2, "row": 0},
    ]
    assert len({record["prompt_hash"] for record in records}) == 5


class Choices(Documents):
    """Questions with options behind them, which are no part of what is retrieved with."""

    def item(self, name):
        return Item(name, "first", f"What of {name}?\nA. red\nB. blue", f"What of {name}?", "r", 4)


@pytest.mark.slow
def test_passages_are_retrieved_with_the_query_of_the_item(engine, tmp_path, monkeypatch):
    """Options name wrong things too: retrieved with, they would bring passages about those."""
    asked = []
    retrieve = IndexedDocument.retrieve

    def spy(self, question, **kwargs):
        asked.append(question)
        return retrieve(self, question, **kwargs)

    monkeypatch.setattr(IndexedDocument, "retrieve", spy)
    answers(engine, tmp_path, EvaluationPlan(Choices(), 0, ["rag", "sd"], [Variation()], 2))
    assert set(asked) == {f"What of {name}?" for name in ("a0", "a1", "a2", "b0")}


class OneBad(TwoDocuments):
    """A long question among good ones, a document of blanks, a bad record, and a document that is too long."""

    def sources(self):
        long = dataclasses.replace(self.item("a1"), question="word " * 2000)
        yield Source("a", TEXT, (self.item("a0"), long, dataclasses.replace(self.item("a2"), task="first")))
        yield Source("b", " \n", (self.item("b0"), self.item("b1")))
        yield Source("c", TEXT * 20, (self.item("c1"),))
        yield Source("d", ". ! -- ?", (self.item("d0"),))
        yield Source("e", TEXT.replace("stone", "river"), (self.item("e0"),))
        yield Source("bad", "", (dataclasses.replace(self.item("f"), problem="data.jsonl, line 7: not JSON"),))


@pytest.mark.slow
def test_what_cannot_be_asked_is_recorded_as_failed_and_the_others_go_on(engine, tmp_path, caplog):
    """Hours of answers must not end at one bad record; its neighbours in the batch are answered without it."""
    strict = dataclasses.replace(engine.config, truncation="error")
    strict = Engine.load(config=strict)
    plan = EvaluationPlan(OneBad(), 0, ["lc", "rag"], [Variation()], 3)
    records = answers(strict, tmp_path, plan)
    assert len(records) == 2 * 9 == len(read_results(tmp_path, check_result))
    failed = {record["item"]: record[FAILED] for record in records if record["method"] == "lc" and FAILED in record}
    assert set(failed) == {"a1", "b0", "b1", "c1", "f"}
    assert "positions" in failed["a1"] and "the document is empty" in failed["b0"]
    assert "tokens, the limit is" in failed["c1"] and failed["f"] == "data.jsonl, line 7: not JSON"
    assert "a1 with lc failed: " in caplog.text
    good = {record["item"] for record in records if record["method"] == "lc" and FAILED not in record}
    assert good == {"a0", "a2", "d0", "e0"}
    assert {record["item"] for record in records if record["method"] == "rag" and FAILED not in record} >= {"a0", "e0"}
    plain = {
        r["item"]: r
        for r in answers(strict, tmp_path / "plain", EvaluationPlan(Documents(), 0, ["lc"], [Variation()], 1))
    }
    for record in records:
        if record["item"] == "a0" and record["method"] == "lc":
            assert record["turns"][0]["token_ids"] == plain["a0"]["turns"][0]["token_ids"]
    assert answers(strict, tmp_path, plan) == [], "a resumed run does not ask what has failed again"


def test_a_fault_that_concerns_every_question_ends_the_run(engine, tmp_path, monkeypatch):
    """A disk or a device that fails is no fault of a question: nothing may be recorded as failed for it."""

    def broken(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(Engine, "ask_batch", broken)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        answers(engine, tmp_path, EvaluationPlan(Documents(), 0, ["lc"], [Variation()], 2))
    assert read_results(tmp_path) == []


class TwoPrompts(Documents):
    """A source with templates of its own, around the document and around passages."""

    def sources(self):
        source = next(super().sources())
        yield dataclasses.replace(
            source, template="Whole: {document} {question}", passages_template="Parts, retrieved: {document} {question}"
        )


@pytest.mark.slow
def test_a_source_has_its_own_prompts_around_document_and_passages(engine, tmp_path):
    """RAPID's drafter is told that it reads retrieved chunks; so is the target where it reads them in rag."""
    plan = EvaluationPlan(TwoPrompts(), 0, ["lc", "rag", "sd"], [Variation()], 1)
    records = {r["method"]: r for r in answers(engine, tmp_path / "two", plan) if r["item"] == "a0"}
    usual = {
        r["method"]: r
        for r in answers(engine, tmp_path / "one", dataclasses.replace(plan, benchmark=Documents()))
        if r["item"] == "a0"
    }

    def tokens(records, method, who):
        return records[method]["turns"][0]["context"][f"{who}_tokens"]

    passages = len("Parts, retrieved: ") + len(" ") - len("Read. ") - len("\n\n")  # a token a byte
    assert tokens(records, "rag", "target") - tokens(usual, "rag", "target") == passages
    assert tokens(records, "sd", "drafter") - tokens(usual, "sd", "drafter") == passages
    assert tokens(records, "sd", "target") - tokens(usual, "sd", "target") == len("Whole:  ") - len("Read. \n\n")
    assert records["sd"]["turns"][0]["token_ids"] == records["lc"]["turns"][0]["token_ids"]


@pytest.mark.slow
def test_batched_answers_are_those_of_single_questions(engine, tmp_path):
    """Rows are batched for speed; the answers must be the same."""
    batched = answers(engine, tmp_path / "3", EvaluationPlan(Documents(), 0, ["lc", "sd"], [Variation()], 3))
    single = answers(engine, tmp_path / "1", EvaluationPlan(Documents(), 0, ["lc", "sd"], [Variation()], 1))
    texts = [{r["key"]: r["turns"][0]["token_ids"] for r in records} for records in (batched, single)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_sweep_asks_each_method_what_concerns_it(engine, tmp_path):
    """Plain decoding is asked once, RAPID for each eta and each kind of passages."""
    variations = parse_sweep(["eta=0,10", "unrelated=false,true"])
    records = answers(engine, tmp_path, EvaluationPlan(Documents(), 0, ["lc", "rapid"], variations, 2))
    b = [record for record in records if record["item"] == "b0"]
    assert [record["variation"] for record in b if record["method"] == "lc"] == [{}]
    swept = [record["variation"] for record in b if record["method"] == "rapid"]
    assert sorted((v["eta"], v["unrelated"]) for v in swept) == [(0.0, False), (0.0, True), (10.0, False), (10.0, True)]
    assert {record["settings"]["eta"] for record in b if record["method"] == "rapid"} == {0.0, 10.0}
    lossless = [record for record in b if record["variation"].get("eta", 0) == 0]
    assert len({tuple(record["turns"][0]["token_ids"]) for record in lossless}) == 1


@pytest.mark.slow
def test_retrieval_length_and_drafter_can_be_swept(engine, tmp_path, make_tiny_checkpoint):
    """Figure 3's axis, and drafts by another model in the same table."""
    other = make_tiny_checkpoint(seed=5)
    variations = parse_sweep(["retrieval_tokens=128,512", f"drafter=,{other}"])
    records = answers(engine, tmp_path, EvaluationPlan(Documents(), 0, ["sd"], variations, 4))
    a0 = {tuple(r["variation"].values()): r["turns"][0] for r in records if r["item"] == "a0"}
    sizes = {key: turn["context"]["drafter_tokens"] for key, turn in a0.items()}
    assert sizes["", 128] < sizes["", 512] == sizes[str(other), 512]
    assert len({tuple(turn["token_ids"]) for turn in a0.values()}) == 1


class ManyDocuments(TwoDocuments):
    """Three questions, one of another task, then documents with one each, one of blanks, and two conversations."""

    def sources(self):
        yield from list(super().sources())[:1]
        for name, text in (("b", TEXT.replace("stone", "river")), ("c", TEXT[:300]), ("d", " \n"), ("e", TEXT[40:500])):
            yield Source(name, text, (self.item(f"{name}0"),))
        yield Source("talk", "", (self.item("f0"), self.item("g0")))


class GoodDocuments(ManyDocuments):
    """Those that can be read and retrieved from."""

    def sources(self):
        return (source for source in super().sources() if source.text.strip())


def batches(plan):
    return [[asked.item.id for asked in batch] for batch in plan.batches()]


@pytest.mark.parametrize(
    "across, expected",
    [
        (False, [["a0", "a1"], ["a2"], ["b0"], ["c0"], ["d0"], ["e0"], ["f0"], ["g0"]]),
        (True, [["a0", "a1"], ["b0", "c0"], ["d0", "e0"], ["f0"], ["g0"], ["a2"]]),
    ],
)
def test_what_does_not_fill_a_batch_of_its_document_is_batched_with_others(across, expected):
    """Questions about one document stay together, their cache is read once; tasks and conversations never mix."""
    plan = EvaluationPlan(ManyDocuments(), 0, ["lc"], [Variation()], 2, across_documents=across)
    assert batches(plan) == batches(plan) == expected
    plan = dataclasses.replace(plan, batch=4, across_documents=True)
    assert batches(plan) == [["a0", "a1", "b0", "c0"], ["f0"], ["g0"], ["d0", "e0"], ["a2"]]


@pytest.mark.parametrize("methods", [["lc"], slow(["sd", "rapid", "magicdec"])])
def test_answers_across_documents_are_those_of_each_document_alone(engine, tmp_path, methods):
    """Tokens, prompts and passages; only the batches that they were decoded in differ."""
    plan = EvaluationPlan(GoodDocuments(), 0, methods, [Variation()], 3, across_documents=True)
    together = {record["key"]: record for record in answers(engine, tmp_path / "together", plan)}
    alone = dataclasses.replace(plan, batch=1, across_documents=False)
    for record in answers(engine, tmp_path / "alone", alone):
        found = together.pop(record["key"])
        for name in ("source", "item", "prompt_hash", "scores"):
            assert found[name] == record[name]
        for name in ("token_ids", "context"):
            assert found["turns"][0][name] == record["turns"][0][name]
        assert found["batch"]["size"] == 3 and record["batch"]["size"] == 1
    assert not together


def test_one_bad_document_does_not_fail_those_beside_it(engine, tmp_path):
    """They are asked without it, and a run that is stopped and goes on asks the same batches."""
    plan = EvaluationPlan(ManyDocuments(), 0, ["lc"], [Variation()], 2, across_documents=True)
    with ResultStore(tmp_path, {"benchmark": {"name": "made"}}) as store:
        begun = run(engine, plan, store)
        first = [next(begun) for _ in range(3)]
        begun.close()
    records = first + answers(engine, tmp_path, plan)
    assert [record["item"] for record in records] == ["a0", "a1", "b0", "d0", "e0", "f0", "g0", "a2"], "c0 is on disk"
    failed = {record["item"]: record[FAILED] for record in records if FAILED in record}
    assert list(failed) == ["d0"] and "the document is empty" in failed["d0"]
    assert {record["item"] for record in read_results(tmp_path)} == {
        "a0", "a1", "a2", "b0", "c0", "d0", "e0", "f0", "g0",
    }  # fmt: skip
    assert answers(engine, tmp_path, plan) == []


def test_too_little_memory_for_a_batch_ends_the_run(engine, tmp_path, monkeypatch):
    """It is no fault of a question: recorded as failed, a benchmark would be lost; asked alone, it would be slow."""
    monkeypatch.setattr(together, "free_bytes", lambda mesh: 10)
    plan = EvaluationPlan(GoodDocuments(), 0, ["lc"], [Variation()], 2, across_documents=True)
    with pytest.raises(
        TooLittleMemory, match="documents of up to 1,024 tokens in 2 rows need .* bytes .*, 10 are free"
    ):
        answers(engine, tmp_path, plan)
    assert {record["item"] for record in read_results(tmp_path)} == {"a0", "a1"}, "of one document they share a cache"


@pytest.mark.slow
def test_unrelated_passages_go_with_their_documents(engine, tmp_path):
    """Each row's passages are those of the document behind its own."""
    plan = EvaluationPlan(GoodDocuments(), 0, ["rapid"], parse_sweep(["unrelated=true"]), 2, across_documents=True)
    found = {record["item"]: record for record in answers(engine, tmp_path / "together", plan)}
    alone = dataclasses.replace(plan, batch=1, across_documents=False)
    for record in answers(engine, tmp_path / "alone", alone):
        assert found[record["item"]]["turns"][0]["token_ids"] == record["turns"][0]["token_ids"]
        assert found[record["item"]]["turns"][0]["context"] == record["turns"][0]["context"]


def test_a_stopped_run_goes_on_with_the_same_batches(engine, tmp_path):
    """What was answered is not asked again, and what was not is answered as if nothing had happened."""
    plan = EvaluationPlan(Documents(), 0, ["lc", "rapid"], [Variation()], 2)
    whole = answers(engine, tmp_path / "whole", plan)
    with ResultStore(tmp_path / "stopped", {"benchmark": {"name": "made"}}) as store:
        begun = run(engine, plan, store)
        first = [next(begun) for _ in range(1)]
        begun.close()
    rest = answers(engine, tmp_path / "stopped", plan)
    assert len(rest) < len(whole)
    kept = ("key", "batch", "prompt_hash", "scores")
    stored = {r["key"]: {k: r[k] for k in kept} | {"ids": r["turns"][0]["token_ids"]} for r in [*first, *rest]}
    for record in whole:
        if record["key"] in stored:
            assert stored[record["key"]] == {k: record[k] for k in kept} | {"ids": record["turns"][0]["token_ids"]}
    assert answers(engine, tmp_path / "stopped", plan) == []


def test_prompts_are_cut_in_the_middle_to_the_context_length(engine, tmp_path):
    """InfiniteBench and LongBench keep the first and the last half of the prompt."""
    (record, *_) = answers(
        engine, tmp_path, EvaluationPlan(Documents(), 300, ["lc"], [Variation()], 1, prompt_tokens=300)
    )
    context = record["turns"][0]["context"]
    assert 296 <= context["target_tokens"] <= 304 and context["truncated_tokens"] > 0
    (record, *_) = answers(engine, tmp_path / "whole", EvaluationPlan(Documents(), 300, ["lc"], [Variation()], 1))
    assert record["turns"][0]["context"]["truncated_tokens"] == 0


@pytest.mark.parametrize("kept", [False, True])
def test_databases_are_kept_or_rebuilt_from_turn_to_turn(engine, tmp_path, kept, monkeypatch):
    """Either way the answers are those of plain decoding; kept ones know what an earlier turn taught them."""
    taught = []
    original = Engine.converse

    def converse(self, messages, *, after=None):
        taught.append(after is not None and after.remembered is not None)
        return original(self, messages, after=after)

    monkeypatch.setattr(Engine, "converse", converse)
    plan = EvaluationPlan(Conversations(), 0, ["lc", "hd"], [Variation()], 1, keep_databases=kept)
    answers(engine, tmp_path / "compiling", plan)  # such answers are asked for again
    taught.clear()
    plain, drafted = answers(engine, tmp_path / "compiled", plan)
    assert [t["token_ids"] for t in drafted["turns"]] == [t["token_ids"] for t in plain["turns"]]
    assert len(drafted["turns"]) == 2 and drafted["turns"][1]["acceptance"]["proposed"] > 0
    assert taught == [False, False, False, kept]  # two turns of lc, which teaches nothing, then two of hd


def test_a_conversation_cannot_be_retrieved_from(engine, tmp_path):
    """Spec-Bench with a retrieving method must be refused, not answered with nothing retrieved."""
    with pytest.raises(ValueError, match="method rag retrieves"):
        answers(engine, tmp_path, EvaluationPlan(TwoDocuments(), 0, ["rag"], [Variation()], 2))


@pytest.mark.slow
def test_rule_figures_are_those_of_the_closed_forms(engine):
    """At eta 0 every rule is lossless; with residual exact the law is p_hat; with rapid it may leave both."""
    source = next(TwoDocuments().sources())
    document = engine.read(source.text)
    warm = dataclasses.replace(engine.config, sampling=dataclasses.replace(engine.config.sampling, temperature=1.0))
    engines = {}
    for eta in (0.0, 10.0):
        config = dataclasses.replace(warm, speculation=dataclasses.replace(warm.speculation, eta=eta))
        other = Engine(dataclasses.replace(engine.session, config=config))
        engines[eta] = list(
            distribution_shift.measure(other, document, source.items[0], {"context_length": 1, "item": "a0"})
        )
    for record in engines[0.0]:
        assert record["from_p"] < 1e-5 and record["from_p_hat"] < 1e-5
    by_rule = {(record["tail"], record["residual"]): record for record in engines[10.0]}
    assert len(by_rule) == 4
    for (_, residual), record in by_rule.items():
        assert 0 <= record["acceptance"] <= 1 + 1e-6
        if residual == "exact":
            assert record["from_p_hat"] < 1e-5
            assert record["from_p"] == pytest.approx(record["p_hat_from_p"], abs=1e-5)
    assert "teacher, rapid" in shift_table(engines[10.0]).rows[0][0]
