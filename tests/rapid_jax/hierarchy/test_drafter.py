"""HD in the whole jitted step: the tokens of plain decoding, greedy and sampled, whatever the databases hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.databases.ngram_table import NgramTable
from rapid_jax.decoding.sampling import Warping
from rapid_jax.drafting import LanguageModelDrafter, NullDrafter
from rapid_jax.drafting.assisted import AssistedDrafter
from rapid_jax.hierarchy.drafter import HierarchyDrafter
from rapid_jax.hierarchy.row_databases import Hierarchy, first_distinct
from rapid_jax.hierarchy.setup import make_row_databases
from tests.marks import quick, slow

VOCAB = 8
WARPINGS = {"greedy": dict(temperature=0.0), "sampled": dict(), "warped": dict(temperature=0.7, top_k=5, top_p=0.9)}
SHAPES = {
    "paper": dict(candidates=7, length=4, ngram=5, lookahead=7),
    "small": dict(candidates=2, length=3, ngram=3, lookahead=2),
    "no window": dict(candidates=3, length=5, ngram=4, lookahead=0),
    "few rows": dict(candidates=7, length=4, ngram=3, lookahead=2, rows=6),
}


def make_hierarchy(databases=("context", "model"), **shape):
    shape = {**SHAPES["paper"], **shape}
    return Hierarchy(databases=databases, match=3, **{"rows": shape["candidates"] * shape["length"], **shape})


def some_table(seed=0):
    """A model database of random continuations: right ones only by chance."""
    generator = np.random.default_rng(seed)
    return NgramTable(
        jnp.arange(0, 3 * VOCAB + 1, 3, dtype=jnp.int32),
        jnp.asarray(generator.integers(0, VOCAB, (3 * VOCAB, 4)), jnp.int32),
    )


def memory_of(hierarchy, prompts):
    config = HierarchyConfig(databases=hierarchy.databases, values=4)
    return make_row_databases(hierarchy, config, prompts, vocab_size=VOCAB, new_tokens=24, seed=0)


def started(lab, spec, questions, hierarchy, **start):
    context, _, state = lab.start(dataclasses.replace(spec, drafter=NullDrafter(VOCAB)), questions, **start)
    memory = memory_of(hierarchy, [lab.document + question for question in questions])
    sources = jnp.zeros((len(questions), len(hierarchy.databases)), jnp.int32)
    counters = dataclasses.replace(state.counters, by_source=sources)
    static = {"model": some_table()} if "model" in hierarchy.databases else {}
    return context, static, dataclasses.replace(state, drafter_cache=memory, counters=counters)


def hd(lab, hierarchy, questions, warping, *, burst_steps=4, **start):
    spec = dataclasses.replace(lab.spec(gamma=0, **warping), drafter=HierarchyDrafter(hierarchy))
    begun = started(lab, spec, questions, hierarchy, **start)
    return list(lab.bursts(spec, begun, burst_steps=burst_steps))[-1]


def rows_of(report):
    return [row[:count].tolist() for row, count in zip(report.output, report.num_tokens, strict=True)]


@pytest.mark.parametrize("warping", quick(WARPINGS, "greedy", "sampled"))
@pytest.mark.parametrize("shape", quick(SHAPES, "paper", "few rows"))
def test_tokens_are_those_of_plain_decoding(lab, shape, warping):
    """Lossless from the first step, and more than that: with one seed the very tokens, sampled ones too."""
    report = hd(lab, make_hierarchy(**SHAPES[shape]), lab.questions, WARPINGS[warping])
    plain = lab.run(lab.spec(gamma=0, **WARPINGS[warping]), lab.questions)
    assert rows_of(report) == rows_of(plain)
    counters = report.counters
    assert counters.accepted.sum() > 0 and (counters.steps < plain.counters.steps).any()
    np.testing.assert_array_equal(counters.by_source.sum(axis=1), counters.accepted)
    assert (counters.accepted <= counters.tested).all() and (counters.tested <= counters.proposed).all()


@pytest.mark.parametrize(
    "databases",
    [
        slow(("history",)),
        slow(("context",)),
        slow(("model",)),
        slow(("copies",)),
        ("copies", "model", "history", "context"),
    ],
)
def test_any_databases_in_any_order(lab, databases):
    """Prompt lookup, Lookahead and each database alone are configurations of one drafter."""
    report = hd(lab, make_hierarchy(databases, lookahead=7 if databases == ("context",) else 0), lab.questions, {})
    assert rows_of(report) == rows_of(lab.run(lab.spec(gamma=0), lab.questions))
    assert report.counters.by_source.shape == (len(lab.questions), len(databases))
    assert (report.counters.by_source.sum(axis=0) > 0).any()


def test_rows_and_bursts_do_not_touch_each_other(lab):
    """A row's databases are its own: other neighbours and another rhythm of reading change nothing."""
    hierarchy = make_hierarchy()
    whole = hd(lab, hierarchy, lab.questions, {})
    order = [2, 0, 3, 1]
    moved = hd(lab, hierarchy, [lab.questions[i] for i in order], {}, burst_steps=1, budget=[16, 16, 2, 16], rows=order)
    for place, row in enumerate(order):
        assert rows_of(moved)[place] == rows_of(whole)[row][: 2 if place == 2 else 16]


def test_stop_ids_cut_inside_a_candidate(lab):
    """What follows a stop id in an accepted candidate is not emitted."""
    hierarchy, stop = make_hierarchy(), 2
    spec = dataclasses.replace(lab.spec(gamma=0, stop_ids=(stop,)), drafter=HierarchyDrafter(hierarchy))
    report = list(lab.bursts(spec, started(lab, spec, lab.questions, hierarchy)))[-1]
    plain = rows_of(hd(lab, hierarchy, lab.questions, {}))
    assert rows_of(report) == [row[: row.index(stop) + 1] if stop in row else row for row in plain]


def test_what_was_said_is_drafted_again(lab):
    """Accepted text enters the context database, whatever was accepted in a step: one token suffices."""
    hierarchy = make_hierarchy(("context",), ngram=3, lookahead=0)
    memory = memory_of(hierarchy, [[0, 0, 0]])
    said = [4, 5, 6, 7]
    for token in said:
        emitted = jnp.array([[token, 0, 0, 0, 0]], jnp.int32)
        memory = hierarchy.learn(memory, emitted, jnp.array([1]), None)
    memory_before = dataclasses.replace(memory, recent=jnp.array([[0, 0, 0, 4]]))
    tokens, lengths, _ = hierarchy.lookup({}, memory_before)
    assert lengths[0, 0] == 2 and tokens[0, 0, :2].tolist() == [5, 6]
    assert memory.recent[0].tolist() == [4, 5, 6, 7][-memory.recent.shape[1] :]


def test_nothing_is_learned_from_rows_that_commit_nothing():
    """A finished row's tokens are garbage."""
    hierarchy = make_hierarchy(("context", "history"), ngram=3, lookahead=0)
    before = memory_of(hierarchy, [[1, 2, 3, 4], [4, 3, 2, 1]])
    after = hierarchy.learn(before, jnp.full((2, 5), 6, jnp.int32), jnp.array([0, 2]), None)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old[0], new[0])
        assert (np.asarray(old[1]) != np.asarray(new[1])).any()


def test_candidates_come_in_the_order_of_the_databases_without_repeats():
    """A candidate that says nothing new must not take another one's place."""
    first = (jnp.array([[[1, 2, 3], [1, 2, 0], [4, 4, 4]]]), jnp.array([[3, 2, 0]]))
    second = (jnp.array([[[1, 2], [5, 6], [4, 4]]]), jnp.array([[2, 2, 2]]))
    tokens, lengths, sources = first_distinct([first, second], 4, 3)
    assert tokens[0].tolist() == [[1, 2, 3], [5, 6, 0], [4, 4, 0], [0, 0, 0]]
    assert lengths[0].tolist() == [3, 2, 2, 0] and sources[0, :3].tolist() == [0, 1, 1]
    assert first_distinct([first, second], 2, 3)[0][0].tolist() == [[1, 2, 3], [5, 6, 0]]


def test_first_distinct_against_a_plain_walk():
    """3,000 rows of short candidates over two tokens, full of repeats and beginnings."""
    generator = np.random.default_rng(1)
    parts = []
    for count, length in ((3, 2), (4, 3)):
        tokens = generator.integers(0, 2, (3000, count, length)).astype(np.int32)
        parts.append((tokens, generator.integers(0, length + 1, (3000, count)).astype(np.int32)))
    tokens, lengths, sources = jax.jit(first_distinct, static_argnums=(1, 2))(parts, 4, 3)
    for b in range(3000):
        expected = []
        for source, (held, sizes) in enumerate(parts):
            for candidate, size in zip(held[b], sizes[b], strict=True):
                said = candidate[:size].tolist()
                if size and all(other[:size] != said for other, _ in expected):
                    expected.append((said, source))
        ours = [(t[:n].tolist(), int(s)) for t, n, s in zip(tokens[b], lengths[b], sources[b], strict=True) if n]
        assert ours == expected[:4]


class Assisted:
    """The drafter of the laboratory, with and without databases of what it reads."""

    def __init__(self, lab, gamma=5, databases=("context", "history"), sure_match=0, **shape):
        self.chain = LanguageModelDrafter(lab.drafter.decoder, gamma, VOCAB)
        self.drafter = AssistedDrafter(self.chain, make_hierarchy(databases, lookahead=0, **shape), sure_match)

    def reading(self, lab, questions):
        spec = lab.spec(gamma=self.chain.gamma)
        _, model, state = lab.start(spec, questions)
        memory = memory_of(self.drafter.hierarchy, [lab.passage + question for question in questions])
        return model, state, memory


@pytest.mark.slow
@pytest.mark.parametrize("databases", [("context", "history"), ("copies", "context")])
@pytest.mark.parametrize("warping", quick(WARPINGS, "sampled"))
def test_an_assisted_draft_is_the_sequential_one(lab, warping, databases):
    """The same tokens with the same keys, the same q, the same cache."""
    both = Assisted(lab, databases=databases, candidates=3, length=3, ngram=3, rows=5)
    warped = Warping.of(**{"temperature": 1.0, **WARPINGS[warping]})
    model, state, memory = both.reading(lab, lab.questions)
    keys = jax.random.split(jax.random.key(3), len(lab.questions))
    plain, block = jax.jit(both.chain.draft)(model, state.drafter_cache, state.last_tokens, keys, warped)
    assisted, own = jax.jit(both.drafter.draft)(
        (*model, {}), (state.drafter_cache, memory), state.last_tokens, keys, warped
    )
    np.testing.assert_array_equal(assisted.tokens, plain.tokens)
    np.testing.assert_allclose(assisted.probs, plain.probs, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(block), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (assisted.forwards <= plain.forwards).all()


def test_what_stands_in_the_passages_is_drafted_in_fewer_forwards(lab):
    """Five tokens that the databases hold behind these very words take at most two forwards of four tokens and one."""
    both = Assisted(lab, candidates=3, length=4)
    warped = Warping.of(0.0)
    model, state, _ = both.reading(lab, lab.questions)
    keys = jax.random.split(jax.random.key(3), len(lab.questions))
    plain, _ = jax.jit(both.chain.draft)(model, state.drafter_cache, state.last_tokens, keys, warped)
    prompts = [q + said + q for q, said in zip(lab.questions, np.asarray(plain.tokens).tolist(), strict=True)]
    cache = (state.drafter_cache, memory_of(both.drafter.hierarchy, prompts))
    assisted, _ = jax.jit(both.drafter.draft)((*model, {}), cache, state.last_tokens, keys, warped)
    np.testing.assert_array_equal(assisted.tokens, plain.tokens)
    assert (assisted.forwards <= 2).all() and (plain.forwards == 5).all()


@pytest.mark.parametrize("warping", [slow("greedy"), "sampled"])
@pytest.mark.parametrize("eta", [slow(0.0), 5.0])
def test_rapid_with_databases_says_what_rapid_says(lab, warping, eta):
    """The whole loop: other drafts, or a tail that lacks a token, would end in other tokens."""
    both = Assisted(lab, gamma=3, candidates=3, length=3, ngram=3)
    spec = dataclasses.replace(lab.spec(gamma=3, **WARPINGS[warping]), drafter=both.drafter)
    context, model, state = lab.start(lab.spec(gamma=3), lab.questions)
    plain = lab.run(lab.spec(gamma=3, **WARPINGS[warping]), lab.questions, eta=eta)
    prompts = [lab.passage + said + question for question, said in zip(lab.questions, rows_of(plain), strict=True)]
    cache = (state.drafter_cache, memory_of(both.drafter.hierarchy, prompts))
    report = list(lab.bursts(spec, (context, (*model, {}), dataclasses.replace(state, drafter_cache=cache)), eta=eta))[
        -1
    ]
    assert rows_of(report) == rows_of(plain)
    np.testing.assert_array_equal(report.counters.accepted, plain.counters.accepted)
    assert report.counters.drafter_forwards.sum() < plain.counters.drafter_forwards.sum()


@pytest.mark.parametrize("warping", [slow("sampled"), "greedy"])
def test_a_sure_copy_is_drafted_without_asking(lab, warping):
    """Greedy the very tokens of the target alone; sampled, tokens that it may draw. Copies cost one forward a step."""
    drafts = {}
    for sure_match in (0, 1):
        both = Assisted(lab, gamma=5, databases=("copies",), sure_match=sure_match, candidates=2, length=2)
        spec = dataclasses.replace(lab.spec(gamma=5, **WARPINGS[warping]), drafter=both.drafter)
        context, model, state = lab.start(lab.spec(gamma=5), lab.questions)
        prompts = [lab.document + question for question in lab.questions]
        cache = (state.drafter_cache, memory_of(both.drafter.hierarchy, prompts))
        begun = (context, (*model, {}), dataclasses.replace(state, drafter_cache=cache))
        drafts[sure_match] = list(lab.bursts(spec, begun))[-1]
        if warping == "greedy":
            assert rows_of(drafts[sure_match]) == rows_of(lab.run(lab.spec(gamma=0, temperature=0.0), lab.questions))
    asked, copied = (drafts[key].counters for key in (0, 1))
    assert (copied.drafter_forwards >= copied.steps).all() and copied.accepted.sum() > 0
    assert copied.drafter_forwards.sum() / copied.steps.sum() < asked.drafter_forwards.sum() / asked.steps.sum()


def test_copies_of_a_finished_row_are_not_waited_for(lab):
    """A row that has ended may have no match, and must not keep the others from copying."""
    both = Assisted(lab, gamma=3, databases=("copies",), sure_match=3, candidates=2, length=2)
    memory = memory_of(both.drafter.hierarchy, [[1, 2, 3, 4, 5, 1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 0]])
    _, model, state = lab.start(lab.spec(gamma=3), lab.questions[:2])
    last, keys = jnp.array([[2, 3], [7, 0]]), jax.random.split(jax.random.key(0), 2)
    for ended, forwards in ((False, 3), (True, 1)):
        cache = dataclasses.replace(memory, ended=jnp.array([False, ended]))
        draft, _ = both.drafter.draft((*model, {}), (state.drafter_cache, cache), last, keys, Warping.of(0.0))
        assert (int(draft.forwards[0]) == 1) == (forwards == 1)
    assert draft.tokens[0].tolist() == [4, 5, 1] and draft.probs[0].argmax(-1).tolist() == [4, 5, 1]
