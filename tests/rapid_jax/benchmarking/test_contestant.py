"""A method in a benchmark is the method of an answer: the same eta, the same tokens read, all of its seconds and bytes."""

import dataclasses
import types

import numpy as np
import pytest

from rapid_jax.benchmarking import contestant as contestants
from rapid_jax.benchmarking import sweep as sweeps
from rapid_jax.benchmarking.acceptance import ForcedAcceptance
from rapid_jax.benchmarking.contestant import MethodContestant
from rapid_jax.benchmarking.measurement import Cell
from rapid_jax.benchmarking.prompts import BenchmarkPrompts, ModelPrompts
from rapid_jax.benchmarking.sweep import Sweep, run_sweep
from rapid_jax.benchmarking.traffic import Forward, step_bytes
from rapid_jax.config import get_method
from rapid_jax.engine.batch import start_batch
from rapid_jax.engine.engine import Engine
from rapid_jax.verification import verify_chain

CELL = Cell(context_length=400, batch=2, gamma=3, new_tokens=20)
QUESTIONS = [[7, 8, 9, 10, 11], [12, 13, 14]]


def ids(seed, count, size):
    return np.random.default_rng(seed).integers(3, 250, (count, size)).tolist()


@pytest.fixture(scope="module")
def apart(engine):
    """A session whose drafter is another model than its target, with the same weights."""
    drafter = dataclasses.replace(engine.target)
    return dataclasses.replace(engine.session, drafter=drafter, passages={})


@pytest.fixture(scope="module")
def prompts():
    read = ModelPrompts(ids(1, 2, 150), QUESTIONS)
    return BenchmarkPrompts(ids(0, 1, 400)[0], read, ModelPrompts(ids(2, 2, 160), [[*q, 5] for q in QUESTIONS]))


@pytest.fixture(scope="module")
def make(apart, prompts):
    """A contestant by the method's name, over contexts that are read once."""
    document = apart.prefill(apart.target, [prompts.document])
    passages = apart.prefill(apart.target, prompts.target.passages)
    drafts = apart.prefill(apart.drafter, prompts.drafter.passages)

    def contestant(name, forced=None, cell=CELL, session=apart):
        method = get_method(name)
        context = document if method.reads_document else passages
        return MethodContestant(
            session, method, cell, prompts, context, drafts if method.drafts_from_passages else None, forced
        )

    return contestant


@pytest.mark.parametrize("name", ["lc", "rag", "sd", "rapid", "magicdec", "pages", "rapid+hd"])
def test_a_benchmark_decodes_what_an_answer_decodes(apart, make, prompts, name):
    """A lossless method with an eta, or a drafter that reads a token twice, would be timed for something else."""
    batch = make(name).batch
    started = start_batch(apart, batch)
    assert started.controls.eta == (10.0 if name.startswith("rapid") else 0.0)
    assert started.controls.stop_ids.max() == -1, "every row decodes all of its tokens"
    assert started.state.target_tail.length.tolist() == [len(question) - 1 for question in QUESTIONS]
    assert started.state.newest[:, 0].tolist() == [question[-1] for question in QUESTIONS]
    assert started.state.budget.tolist() == [CELL.new_tokens] * 2
    assert started.drafting.drafter.gamma == (0 if name in ("lc", "rag") else CELL.gamma)
    if get_method(name).drafts_from_passages:
        tail = started.drafting.cache[0] if name == "rapid+hd" else started.drafting.cache
        assert tail.length.tolist() == [len(question) - 2 for question in prompts.drafter.questions]
        assert batch.drafter.model is apart.drafter
        assert started.state.last_tokens.tolist() == [[question[-1], 5] for question in QUESTIONS]
    assert started.spec.verify is verify_chain and batch.rows == CELL.batch


@pytest.mark.parametrize("name, forced", [("lc", None), ("sd", 0.6), ("magicdec", 0.6), ("hd", None)])
def test_a_rate_is_forced_where_drafts_are_tested_by_ratio(make, name, forced):
    """A row of the table that names a rate must have had it; candidates of databases are followed, not tested."""
    contestant = make(name, forced=0.6)
    assert contestant.forced_acceptance == forced
    assert contestant.batch.verify == (verify_chain if forced is None else ForcedAcceptance(0.6))


def test_reported_tokens_are_those_that_each_model_has_read(make):
    """The columns of the table."""
    said = {name: (make(name).context_tokens, make(name).retrieved_tokens) for name in ("lc", "rag", "sd", "magicdec")}
    assert said == {"lc": (400, None), "rag": (150, 150), "sd": (400, 160), "magicdec": (400, None)}


def test_bytes_are_those_of_the_target_and_of_every_forward_of_the_drafter(apart, make, engine):
    """A share of the bandwidth: halves of the tokens stand in the tails in the mean, and each row keeps a window."""
    target = Forward(apart.target, [400], [15.0, 13.0])
    assert make("lc").bytes_per_step(0) == step_bytes([target])
    assert make("rag").bytes_per_step(0) == step_bytes([dataclasses.replace(target, contexts=[150, 150])])
    drafts = Forward(apart.drafter, [160, 160], [16.0, 14.0], times=2.5)
    assert make("sd").bytes_per_step(2.5) == step_bytes([target, drafts])
    for window, kept in ((64, [68, 68]), (410, [414, 413]), (4096, [415, 413])):
        speculation = dataclasses.replace(engine.config.speculation, window=window)
        session = dataclasses.replace(apart, config=dataclasses.replace(engine.config, speculation=speculation))
        own = Forward(apart.target, (), kept, times=2.5)
        assert make("magicdec", session=session).bytes_per_step(2.5) == step_bytes([target, own])


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_sample_counts_the_last_report_and_every_prefill(make, monkeypatch):
    """Decoding seconds end with the last token on the host; contexts count for whoever reads them."""
    clock = Clock()
    monkeypatch.setattr(contestants, "time", clock)

    def bursts():
        for step in range(4):
            counters = types.SimpleNamespace(
                steps=np.array([step, step]), proposed=np.array([3, 4]) * step, tested=np.array([2, 2]) * step,
                accepted=np.array([1, 2]) * step, drafter_forwards=np.array([5, 6]) * step,
            )  # fmt: skip
            clock.now += 10.0 if step == 0 else 1.0  # what comes before the first report is not decoding
            yield types.SimpleNamespace(
                output=np.array([[7, 7, 7, 0], [8, 8, 8, 8]]), num_tokens=np.array([step, step + 1]), counters=counters
            )
        clock.now += 10.0

    started = types.SimpleNamespace(decode=lambda session: bursts(), prefill_seconds=8.0)
    monkeypatch.setattr(contestants, "start_batch", lambda *_: started)
    for name, prefill in (("lc", 9.0), ("sd", 11.0)):
        contestant = make(name)
        context = dataclasses.replace(contestant.context, seconds=1.0)
        drafts = contestant.drafter_context and dataclasses.replace(contestant.drafter_context, seconds=2.0)
        sample = dataclasses.replace(contestant, context=context, drafter_context=drafts).run()
        assert (sample.decode_seconds, sample.prefill_seconds) == (3.0, prefill)
        assert sample.tokens == [[7, 7, 7], [8, 8, 8, 8]] and sample.steps == [3, 3]
        assert (sample.proposed, sample.tested, sample.accepted) == (21, 12, 9)
        assert sample.drafter_forwards == (15, 18)


@pytest.fixture
def swept(engine, apart, prompts, monkeypatch):
    """A function that sweeps without decoding: (what was read, the contestants of each cell)."""

    def sweep(names, *, session=apart, batches=(1, 2), gammas=(2, 5), lengths=(400,), prompts=(prompts,), peers=()):
        read, cells = [], []

        def prefill(self, model, rows, progress=None):
            read.append((model is session.target, rows))
            return model, rows

        def measure(cell, given, repeats, bandwidth, devices, tick, *, warm):
            cells.append((cell, given))
            for _ in range((repeats + (not warm)) * len(given)):
                tick()
            return given

        monkeypatch.setattr(type(session), "prefill", prefill)
        monkeypatch.setattr(sweeps, "measure", measure)
        methods = [get_method(name) for name in names]
        plan = Sweep(methods, lengths, batches, gammas, 20, repeats=3, acceptance=0.5, prompts=len(prompts))
        asked, ticks = [], []
        made = run_sweep(
            plan,
            Engine(session),
            lambda *args: asked.append(args[1:]) or prompts,
            None,
            peers=peers,
            tick=lambda: ticks.append(1),
        )
        assert len(list(made)) == len(cells)
        assert len(ticks) == plan.runs(peers), "the progress bar ends where the sweep does"
        assert asked == [(length, max(batches)) for length in lengths]
        return read, cells

    return sweep


def test_every_combination_is_a_cell_and_what_it_reads_is_read_once(swept, prompts):
    """Reading a document of 128K tokens takes longer than everything else: once a length, passages once a batch size."""
    read, cells = swept(["lc", "rag", "sd", "magicdec"])
    assert [dataclasses.astuple(cell) for cell, _ in cells] == [
        (400, batch, gamma, 20, "", 0) for batch in (1, 2) for gamma in (2, 5)
    ]
    passages = [(True, prompts.target.passages[:1]), (False, prompts.drafter.passages[:1])]
    both = [(True, prompts.target.passages), (False, prompts.drafter.passages)]
    assert read == [(True, [prompts.document]), *passages, *both]
    for cell, given in cells:
        lc, rag, sd, magicdec = given
        assert [one.name for one in given] == ["lc", "rag", "sd", "magicdec"]
        assert lc.context is sd.context is magicdec.context and lc.context[1] == [prompts.document]
        assert rag.context[1] == prompts.target.passages[: cell.batch]
        assert sd.drafter_context[1] == prompts.drafter.passages[: cell.batch]
        assert (lc.drafter_context, rag.drafter_context, magicdec.drafter_context) == (None, None, None)
        assert all(one.cell is cell and one.forced == 0.5 for one in given)
        assert all(len(one.prompts.target.questions) == cell.batch for one in given)


def test_nothing_is_read_for_nobody(swept, engine, prompts):
    """A sweep of rag needs no document, one of lc no passages, and self-speculation reads passages once."""
    assert [rows for _, rows in swept(["rag"], batches=(2,))[0]] == [prompts.target.passages]
    read, cells = swept(["lc"])
    assert [rows for _, rows in read] == [[prompts.document]]
    assert [cell.gamma for cell, _ in cells] == [2, 2], "draft lengths are one where nobody drafts"
    alone = dataclasses.replace(engine.session, passages={})
    same = BenchmarkPrompts(prompts.document, prompts.target, prompts.target)
    read, _ = swept(["rag", "sd"], session=alone, batches=(2,), prompts=[same])
    assert [rows for _, rows in read] == [[prompts.document], prompts.target.passages]


def test_a_document_is_read_once_for_prompts_that_follow_each_other(swept, prompts):
    """Prompts are numbered by their kind, and only the first is run once unmeasured (counted by the ticks)."""
    other = BenchmarkPrompts([5] * 300, prompts.target, prompts.drafter)
    asked = [one.of_kind(kind) for one in (prompts, other) for kind in ("quote", "ask")]
    read, cells = swept(["lc", "sd"], batches=(1,), gammas=(2,), lengths=(400, 500), prompts=asked)
    for_each_length = [("quote", 0), ("ask", 0), ("quote", 1), ("ask", 1)]
    assert [(cell.kind, cell.prompt) for cell, _ in cells] == for_each_length * 2
    assert [cell.context_length for cell, _ in cells] == [400] * 4 + [500] * 4
    documents = [rows for target, rows in read if target]
    assert documents == [[prompts.document], [other.document]] * 2
    assert [given[0].context[1][0] for _, given in cells] == [*[prompts.document] * 2, *[other.document] * 2] * 2


class FakePeer:
    """An engine that reads nothing; `kinds` are its contestants for one row and for several."""

    def __init__(self, one, several):
        self.kinds, self.read_documents = (one, several), []

    def names(self, rows):
        return self.kinds[rows > 1]

    def read(self, tokens, chunk):
        self.read_documents.append((tokens, chunk))
        return self, len(self.read_documents)

    def contestants(self, document, target, questions, new_tokens):
        assert document == (self, len(self.read_documents)), "the document that this engine has read last"
        return [types.SimpleNamespace(name=name, questions=questions) for name in self.names(len(questions))]


def test_peers_read_a_document_once_and_stand_behind_the_methods(swept, prompts, apart):
    """Each with what it has read itself, in the cells whose batch it takes."""
    peers = [FakePeer(("hf", "hf-pld"), ("hf",)), FakePeer(("llama.cpp f32",), ())]
    _, cells = swept(["lc"], lengths=(400, 500), peers=peers)
    both = [["lc", "hf", "hf-pld", "llama.cpp f32"], ["lc", "hf"]]  # of one row and of two
    assert [[one.name for one in given] for _, given in cells] == both * 2
    assert cells[0][1][1].questions == prompts.target.questions[:1]
    for peer in peers:
        assert peer.read_documents == [(prompts.document, apart.config.prefill_chunk)] * 2


def test_runs_of_peers_are_counted():
    """A progress bar that ends early, or never."""
    peers = [FakePeer(("hf", "hf-pld"), ("hf",)), FakePeer(("llama.cpp f32",), ())]
    sweep = Sweep([get_method("lc"), get_method("sd")], (1, 2), (1, 4), (3, 5, 7), 20, repeats=2)
    assert sweep.runs() == 2 * 3 * 3 * (2 * 2) and sweep.runs(peers) == 2 * 3 * 3 * (2 * 2 + 4)
