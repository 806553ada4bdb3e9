"""The model database Dm: which n-grams are kept and in which order, against a plain Python count of the same text."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from rapid_jax.database_building.manifest import write_manifest
from rapid_jax.database_building.ngrams import count_ngrams, make_table, save_table
from rapid_jax.databases.manifest import Manifest
from rapid_jax.databases.ngram_table import NgramTable, lookup
from tests.marks import slow

VOCAB, ROWS = 6, 512
DOCUMENTS = st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=24), max_size=8)

jitted = jax.jit(lookup, static_argnums=2)


def plain_count(documents, n, keep):
    """[(n-gram, documents that have it)], the most common first, then in the order of token ids."""
    counts = Counter()
    for document in documents:
        counts.update({tuple(document[i : i + n]) for i in range(len(document) - n + 1)})
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:keep]


def plain_lookup(ranked, key, count, values):
    """A key's continuations, as lists."""
    return [list(gram[1:]) for gram, _ in ranked if gram[0] == key][:values][:count]


def padded(table):
    """The same table with rows that belong to no key, so that every table has one shape and compiles once."""
    spare = jnp.full((ROWS - len(table.values), table.values.shape[1]), VOCAB + 1, jnp.int32)
    return NgramTable(table.offsets, jnp.concatenate([table.values, spare]))


def found(tokens, lengths):
    """Candidates of each row as lists; what is none must be zeros, and come last."""
    rows = []
    for candidates, sizes in zip(np.asarray(tokens).tolist(), np.asarray(lengths).tolist(), strict=True):
        assert all(not any(candidate[size:]) for candidate, size in zip(candidates, sizes, strict=True))
        real = [candidate[:size] for candidate, size in zip(candidates, sizes, strict=True) if size]
        assert all(sizes[: len(real)]) and not any(sizes[len(real) :])
        rows.append(real)
    return rows


@pytest.mark.parametrize("n", [2, slow(5)])
def test_a_table_holds_what_a_plain_count_finds(n):
    """A draft that is not what the model most often wrote would be rejected, and nobody would see why."""
    keys = np.arange(-1, VOCAB + 2)

    @settings(max_examples=250, deadline=None)
    @example([], 3, 2)
    @example([[0] * 10, [0] * 10, [1, 0, 0, 0, 0]], 1, 7)
    @given(DOCUMENTS, st.integers(1, 60), st.integers(1, 7))
    def check(documents, keep, values):
        ranked = plain_count(documents, n, keep)
        ngrams, counts = count_ngrams(documents, n, keep=keep)
        assert list(zip(map(tuple, ngrams.tolist()), counts.tolist(), strict=True)) == ranked
        table = make_table(ngrams, vocab_size=VOCAB, values_per_key=values)
        wanted = [plain_lookup(ranked, key, 5, values) for key in keys]
        assert found(*jitted(padded(table), jnp.asarray(keys), 5)) == wanted

    check()


def test_many_documents_are_counted_as_one_by_one():
    """The sort takes all documents at once; none may leak into another."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 9, rng.integers(0, 300)).tolist() for _ in range(300)]
    ngrams, counts = count_ngrams(documents, 5, keep=1000)
    assert list(zip(map(tuple, ngrams.tolist()), counts.tolist(), strict=True)) == plain_count(documents, 5, 1000)


def test_frequency_is_that_of_documents():
    """A phrase that one answer repeats is not what the model usually says."""
    ngrams, counts = count_ngrams([[1, 2, 1, 2, 1, 2], [3, 4], [3, 4]], 2)
    assert ngrams.tolist() == [[3, 4], [1, 2], [2, 1]] and counts.tolist() == [2, 1, 1]


def test_wide_vocabularies_keep_their_ids():
    """Llama 3 and Qwen have more tokens than 16 bits can name."""
    gram = [65_535, 65_536, 128_255, 200_000, 262_143]
    table = make_table(count_ngrams([gram, [262_143, *gram]], 5)[0], vocab_size=262_144)
    tokens, lengths = lookup(table, jnp.array([65_535, 262_143, 65_536]), 2)
    assert found(tokens, lengths) == [[gram[1:]], [gram[:4]], []]
    assert table.nbytes == 4 * 262_145 + 4 * 4 * 2


def test_a_table_of_nothing_gives_nothing():
    """Answers may all be shorter than an n-gram."""
    table = make_table(count_ngrams([[1, 2, 3]], 5)[0], vocab_size=8)
    assert found(*jitted(table, jnp.array([1, 2]), 3)) == [[], []]


def test_ids_outside_the_vocabulary_are_refused():
    """A table would hand them to the model as tokens."""
    with pytest.raises(ValueError, match="token ids from 1 to 8 do not fit a vocabulary of 8"):
        make_table(np.array([[1, 8]], np.int32), vocab_size=8)


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """(directory of a finished database, its tokenizer, its table)."""
    tokenizer = Tokenizer(tiny_tokenizer)
    table = make_table(count_ngrams([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9]])[0], vocab_size=264)
    save_table(tmp_path, table)
    counts = dict(vocab_size=259, documents=2, tokens=11, order=5, ngrams=2, shards=0)
    names = dict(tokenizer=tokenizer.fingerprint, tokenizer_name="tiny", generated_by="tiny")
    write_manifest(tmp_path, Manifest(kind="model", **names, **counts, settings={}, versions={}))
    return tmp_path, tokenizer, table


def test_a_saved_table_comes_back(saved):
    directory, tokenizer, table = saved
    opened = NgramTable.open(directory, tokenizer)
    for field in dataclasses.fields(table):
        np.testing.assert_array_equal(getattr(opened, field.name), getattr(table, field.name))
    assert found(*lookup(opened, jnp.array([5]), 2)) == [[[6, 7, 8, 9]]]


@pytest.mark.parametrize(
    "damage, error, message",
    [
        (lambda d: (d / "values.npy").unlink(), FileNotFoundError, "values.npy is missing; make the database anew"),
        (lambda d: (d / "values.npy").write_bytes(b""), ValueError, "values.npy is damaged"),
        (lambda d: (d / "values.npy").write_bytes((d / "values.npy").read_bytes()[:-4]), ValueError, "is damaged"),
        (lambda d: np.save(d / "values.npy", np.zeros((2, 4))), ValueError, "not int32 with 2 axes"),
        (lambda d: np.save(d / "values.npy", np.zeros((3, 4), np.int32)), ValueError, "do not fit its manifest"),
        (lambda d: np.save(d / "offsets.npy", np.zeros(0, np.int32)), ValueError, "do not fit its manifest"),
        (lambda d: np.save(d / "offsets.npy", np.zeros(9, np.int32)), ValueError, "do not fit its manifest"),
    ],
)
def test_a_damaged_table_is_named(saved, damage, error, message):
    """Half a copied directory must not draft from whatever lies there."""
    directory, tokenizer, _ = saved
    damage(directory)
    with pytest.raises(error, match=message):
        NgramTable.open(directory, tokenizer)
