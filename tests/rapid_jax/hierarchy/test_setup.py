"""What a row's databases know before its first step, and what they remember of the turn before."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.hierarchy.context_table import FREE, build_table
from rapid_jax.hierarchy.row_databases import Hierarchy, LearnedNgrams
from rapid_jax.hierarchy.setup import check_bytes, database_bytes, make_row_databases

VOCAB = 6


def hierarchy_of(databases=("context",), ngram=4, lookahead=0, match=3):
    return Hierarchy(
        databases=databases, candidates=3, length=4, rows=12, ngram=ngram, lookahead=lookahead, match=match
    )


def made(hierarchy, prompts, **more):
    settings = dict(vocab_size=VOCAB, new_tokens=8, seed=0, **more)
    return make_row_databases(hierarchy, HierarchyConfig(databases=hierarchy.databases, values=5), prompts, **settings)


def text(seed, size):
    return np.random.default_rng(seed).integers(0, VOCAB, size).tolist()


@pytest.mark.parametrize("ngram", [2, 3, 5])
@pytest.mark.parametrize("new", [1, 2, 7])
def test_the_next_turn_knows_every_ngram_across_the_seam(ngram, new):
    """The first words of a reply quote the last ones of the answer before it: they would not be drafted."""
    hierarchy, said = hierarchy_of(ngram=ngram), text(0, 40)
    earlier = LearnedNgrams(made(hierarchy, [said]), tuple(said))
    prompt = said + text(1, new)
    remembered, whole = made(hierarchy, [prompt], earlier=earlier), made(hierarchy, [prompt])
    np.testing.assert_array_equal(remembered.table, whole.table)


def test_the_next_turn_inserts_nothing_that_the_turn_before_has_learned():
    """A long conversation would be inserted anew, token by token, before each of its turns."""
    hierarchy, said, new = hierarchy_of(ngram=4), text(0, 40), text(1, 5)
    forgot = dataclasses.replace(made(hierarchy, [said]), table=jnp.full((1, VOCAB, 5, 3), FREE, jnp.int32))
    remembered = made(hierarchy, [said + new], earlier=LearnedNgrams(forgot, tuple(said)))
    expected = build_table(said[-3:] + new, vocab_size=VOCAB, values=5, ngram=4)
    np.testing.assert_array_equal(remembered.table[0], expected)


def test_a_turn_that_reads_otherwise_than_it_was_said_adds_what_differs():
    """Encoded anew, the end of an answer may be other tokens; what was said is still known, and nothing is inserted twice."""
    hierarchy, said = hierarchy_of(ngram=3), text(2, 30)
    before = made(hierarchy, [said])
    prompt = said[:25] + [(said[25] + 1) % VOCAB, *text(3, 6)]
    expected = np.asarray(before.table)[0].tolist()
    for start in range(25 - 2, len(prompt) - 2):  # of n-grams that hold something new, one after another
        key, *value = prompt[start : start + 3]
        expected[key] = [value, *(held for held in expected[key] if held != value)][:5]
    remembered = made(hierarchy, [prompt], earlier=LearnedNgrams(before, tuple(said)))
    assert np.asarray(remembered.table)[0].tolist() == expected


def test_a_history_has_room_for_the_whole_answer():
    """What is said beyond it would be lost, and the newest words are what the next ones repeat."""
    hierarchy = hierarchy_of(("history",))
    memory = made(hierarchy, [text(0, 9), text(1, 4)])
    assert memory.history.tokens.shape == (2, 32) and memory.history.length.tolist() == [9, 4]
    for size, said in ((9, text(0, 9)), (4, text(1, 4))):
        row = [9, 4].index(size)
        assert memory.history.tokens[row, :size].tolist() == said
    assert made(hierarchy, [text(0, 8)]).history.tokens.shape == (1, 16)
    shapes = {made(hierarchy, [text(0, size)], slots=64).history.tokens.shape for size in (8, 30, 64)}
    assert shapes == {(1, 128)}, "prompts in contexts of one size need one program"


def test_the_newest_tokens_of_a_prompt_are_known_and_short_prompts_match_nothing():
    """The first draft asks with them; a prompt of two tokens must not match the padding before it."""
    hierarchy = hierarchy_of(("history",), match=4)
    memory = made(hierarchy, [[1, 2, 3, 4, 5, 0], [4, 5]])
    assert memory.recent.tolist() == [[3, 4, 5, 0], [-1, -1, 4, 5]]


def test_equal_prompts_share_a_table_and_others_do_not():
    """Rows that fill a batch up are copies; a row that got another one's table would draft its words."""
    prompts = [text(0, 20), text(1, 20), text(0, 20)]
    table = np.asarray(made(hierarchy_of(), prompts).table)
    for row, prompt in zip(table, prompts, strict=True):
        np.testing.assert_array_equal(row, np.asarray(made(hierarchy_of(), [prompt]).table)[0])
    assert (table[0] != table[1]).any()


def test_bytes_are_those_of_the_arrays_and_the_bound_is_inclusive():
    """A report that undercounts, or a bound that refuses what it allows."""
    memory = made(hierarchy_of(("context", "history")), [text(0, 20)])
    assert database_bytes(memory, {}) == {"context": VOCAB * 5 * 3 * 4, "history": 32 * 4 + 4}
    check_bytes("context", 100, 100)
    with pytest.raises(ValueError, match="takes 101 bytes on the device, hierarchy.device_bytes allows 100"):
        check_bytes("context", 101, 100)
