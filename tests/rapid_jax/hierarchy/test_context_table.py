"""Dc against a plain Python model: ordered dictionaries, the least recently used out."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.hierarchy.context_table import FREE, build_table, extend_table, insert, lookup


class Model:
    """One row's table as a dictionary of ordered dictionaries, the latest value last."""

    def __init__(self, values):
        self.values = values
        self.table = collections.defaultdict(collections.OrderedDict)

    def insert(self, gram):
        held = self.table[gram[0]]
        held.pop(tuple(gram[1:]), None)
        held[tuple(gram[1:])] = True
        if len(held) > self.values:
            held.popitem(last=False)

    def latest(self, key):
        return list(reversed(self.table[key]))


def as_lists(table, key):
    return [tuple(value) for value in np.asarray(table)[key].tolist() if value[0] != FREE]


def check(table, models, vocab):
    for row, model in zip(np.asarray(table), models, strict=True):
        for key in range(vocab):
            assert as_lists(row, key) == model.latest(key)


@pytest.mark.parametrize("vocab, values, ngram, seed", [(4, 7, 5, 0), (3, 2, 3, 1), (11, 3, 2, 2), (6, 1, 4, 3)])
def test_insertions_follow_the_model(vocab, values, ngram, seed):
    """2,400 insertions a case in rows of their own, a third of them marked as none at all."""
    generator = np.random.default_rng(seed)
    rows, at_once, rounds = 3, 8, 100
    models = [Model(values) for _ in range(rows)]
    table = jnp.full((rows, vocab, values, ngram - 1), FREE, jnp.int32)
    step = jax.jit(insert, donate_argnums=0)
    for number in range(rounds):
        grams = generator.integers(0, vocab, (rows, at_once, ngram)).astype(np.int32)
        valid = generator.random((rows, at_once)) < 2 / 3
        table = step(table, grams, valid)
        for model, own, use in zip(models, grams, valid, strict=True):
            for gram in own[use].tolist():
                model.insert(gram)
        if number % 20 == 19:
            check(table, models, vocab)


@pytest.mark.parametrize(
    "vocab, values, ngram, size", [(4, 7, 5, 3000), (50, 3, 3, 2000), (5, 2, 2, 500), (9, 7, 5, 4)]
)
def test_a_prompt_gives_what_its_ngrams_give_one_after_another(vocab, values, ngram, size):
    """The vectorised pass over a prompt must not differ from the insertions that decoding goes on with."""
    tokens = np.random.default_rng(size).integers(0, vocab, size).tolist()
    model = Model(values)
    for start in range(len(tokens) - ngram + 1):
        model.insert(tokens[start : start + ngram])
    check(build_table(tokens, vocab_size=vocab, values=values, ngram=ngram)[None], [model], vocab)


def test_a_table_goes_on_with_more_text():
    """The next turn of a conversation adds to what the turns before it have taught."""
    tokens = np.random.default_rng(5).integers(0, 4, 300).tolist()
    settings = dict(vocab_size=4, values=5, ngram=4)
    before = build_table(tokens[:200], **settings)
    kept = before.copy()
    np.testing.assert_array_equal(extend_table(before, tokens[197:]), build_table(tokens, **settings))
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(extend_table(before, tokens[:3]), before)


def test_lookups_give_the_latest_first():
    """Overflowing candidates are the old ones, and a free place is no candidate."""
    table = jnp.asarray(build_table([1, 2, 1, 3, 1, 2, 0, 1], vocab_size=5, values=4, ngram=2))[None]
    tokens, lengths = lookup(jnp.tile(table, (2, 1, 1, 1)), jnp.array([1, 4]), 3)
    assert tokens[0, :2].tolist() == [[2], [3]] and lengths[0].tolist() == [1, 1, 0]
    assert lengths[1].tolist() == [0, 0, 0] and (np.asarray(tokens) >= 0).all()
    assert lookup(table, jnp.array([1]), 1)[0].tolist() == [[[2]]]
