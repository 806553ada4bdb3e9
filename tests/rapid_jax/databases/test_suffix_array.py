"""The statistics database Ds: device and host against plain Python over the documents, and where its arrays lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models.tokenizer import Tokenizer
from rapid_jax.database_building.manifest import write_manifest
from rapid_jax.database_building.suffix_arrays import sort_suffixes, write_shards
from rapid_jax.databases import host_lookup
from rapid_jax.databases.manifest import Manifest
from rapid_jax.databases.shards import Shard
from rapid_jax.databases.suffix_array import StatisticsDatabase, SuffixLookup, lookup
from tests.marks import slow
from tests.rapid_jax.databases.reference import make_shard, plain_lookup

VOCAB = 5
FILLER = 90  # an id that nobody asks for: it fills shards up to one size, so that lookups compile once
SHARD = 96
ROWS = 48

jitted = jax.jit(lookup, static_argnums=(0, 3))
documents = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14), max_size=6)
queries = st.lists(st.tuples(st.integers(-1, VOCAB), st.integers(-1, VOCAB)), min_size=ROWS, max_size=ROWS)


def filled(some):
    """Documents that take exactly SHARD tokens with their sentinels."""
    return [*some, [FILLER] * (SHARD - 1 - sum(len(document) + 1 for document in some))]


def database_of(*shards):
    """A database of lists of documents that was never on disk."""
    return StatisticsDatabase(None, tuple(map(make_shard, shards)))


def both(database, rows, count, **settings):
    """[(tokens, lengths)] of the device and of the host, each inside jit."""
    last_tokens = jnp.asarray(rows, jnp.int32)
    return [jitted(*database.on_device(budget, **settings), last_tokens, count) for budget in (database.nbytes, 0)]


def lists(tokens, lengths):
    """Candidates of each row as lists; what is none must be zeros, and come last."""
    rows = []
    for candidates, sizes in zip(np.asarray(tokens).tolist(), np.asarray(lengths).tolist(), strict=True):
        assert all(not any(candidate[size:]) for candidate, size in zip(candidates, sizes, strict=True))
        real = [candidate[:size] for candidate, size in zip(candidates, sizes, strict=True) if size]
        assert all(sizes[: len(real)]) and not any(sizes[len(real) :])
        rows.append(real)
    return rows


def check_both(shards, rows, count, **settings):
    """Device and host against plain Python; returns the candidates."""
    limits = {"length": 4, "max_matches": 5000, **settings}
    wanted = [plain_lookup(shards, row, count, **limits) for row in rows]
    for tokens, lengths in both(database_of(*shards), rows, count, **settings):
        assert tokens.dtype == lengths.dtype == jnp.int32
        assert tokens.shape == (len(rows), count, limits["length"])
        assert lists(tokens, lengths) == wanted
    return wanted


@pytest.mark.parametrize(
    "num_shards, count, length, max_matches",
    [slow(1, 7, 4, 5000), slow(1, 9, 3, 4), slow(3, 7, 4, 5000), (3, 4, 2, 5), slow(2, 1, 1, 1)],
)
def test_random_corpora_are_looked_up_as_plain_python_does(num_shards, count, length, max_matches):
    """Ties, misses, ends of documents, ids that are none, and more matches than are looked at."""
    limits = dict(length=length, max_matches=max_matches)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(documents, min_size=num_shards, max_size=num_shards), queries)
    def check(corpus, rows):
        shards = list(map(filled, corpus))
        wanted = [plain_lookup(shards, row, count, **limits) for row in rows]
        database = database_of(*shards)
        static, arrays = database.on_device(database.nbytes, **limits)
        assert lists(*jitted(static, arrays, jnp.asarray(rows, jnp.int32), count)) == wanted
        assert lists(*host_lookup.candidates(database.shards, rows, count, **limits)) == wanted

    check()


def test_the_sentinel_is_never_crossed_and_never_drafted():
    """The next document has nothing to do with this one."""
    shards = [[[1, 2, 3], [4, 1, 2], [1, 2, 3, 4, 5, 6]]]
    assert check_both(shards, [(1, 2), (4, 1), (2, 3), (5, 6)], 3) == [
        [[3], [3, 4, 5, 6]],
        [[2]],
        [[4, 5, 6]],
        [],
    ]


def test_an_early_end_counts_apart_and_comes_first_in_a_tie():
    """A text that stops is no other text, and it lies before its continuations."""
    shards = [[[7, 1], [7, 1, 2], [7, 1, 2], [7, 1, 2, 3], [7, 1]]]
    assert check_both(shards, [(0, 7)], 4) == [[[1], [1, 2], [1, 2, 3]]]


def test_two_tokens_anywhere_are_worth_more_than_one():
    """A shard that has only the last token must not outvote the one that has both."""
    shards = [[[2, 9], [2, 9], [2, 9]], [[1, 2, 5]]]
    assert check_both(shards, [(1, 2), (3, 2), (8, 8)], 2) == [[[5]], [[9], [5]], []]


def test_two_tokens_with_nothing_behind_them_are_a_miss():
    """At the end of a document they can draft nothing; the last one may."""
    assert check_both([[[1, 2], [3, 2, 6]]], [(1, 2)], 2) == [[[6]]]


def test_counts_of_shards_are_added():
    """The same text is as frequent in two files as in one."""
    shards = [[[1, 2, 3], [1, 2, 4], [1, 2, 4]], [[1, 2, 3], [1, 2, 3], [1, 2, 5]]]
    assert check_both(shards, [(1, 2)], 3) == [[[3], [4], [5]]]


def test_many_matches_are_sampled_evenly():
    """With 5,000 looked at, rare continuations at the end of the order must have their share."""
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.3, 30_000) - 1, 40)
    tokens[rng.integers(0, len(tokens), 2_000)] = 1
    shards = [[tokens[:20_000].tolist()], [tokens[20_000:].tolist()]]
    rows = [(0, 0), (0, 1), (1, 0), (3, 1), (99, 0)]
    everything, sampled = (check_both(shards, rows, 7, max_matches=limit) for limit in (2**15, 64))
    assert everything != sampled  # or the limit was not met


@pytest.mark.parametrize("size", [4999, 5000, 5001, 2**16])
def test_matches_about_the_limit_are_all_in_reach(size):
    """Exactly as many matches as are looked at, one fewer, one more, and far more; the last of them counts too."""
    ids = np.arange(10, 10 + size)
    document = np.stack([np.full(size, 1), ids], axis=1).reshape(-1).tolist()
    for tokens, lengths in both(database_of([document]), [(500_000, 1)], 5000, length=1):
        looked_at = min(size, 5000)
        wanted = 10 + np.arange(looked_at, dtype=np.int64) * size // looked_at
        np.testing.assert_array_equal(tokens[0, :looked_at, 0], wanted)
        assert int(jnp.sum(lengths)) == looked_at


def test_wide_vocabularies_are_sorted_and_found():
    """Ids beyond 16 bits, whose bytes in the machine's order would sort otherwise."""
    shards = [[[65_535, 65_536, 256, 1], [65_535, 65_536, 262_143], [65_535, 65_536, 128_000, 2]], [[255, 65_536, 256]]]
    assert check_both(shards, [(65_535, 65_536), (7, 65_536)], 4) == [
        [[256, 1], [128_000, 2], [262_143]],
        [[256], [256, 1], [128_000, 2], [262_143]],
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(-1, 2), st.sampled_from([255, 256, 65_535, 65_536, 2**24, 2**31 - 1]), st.integers(0, 300_000)
        ),
        max_size=40,
    )
)
def test_suffixes_are_in_the_order_of_their_texts(tokens):
    """The whole search rests on it."""
    assert sort_suffixes(tokens).tolist() == sorted(range(len(tokens)), key=lambda start: tokens[start:])


def test_host_and_device_serve_a_loop_and_a_mesh():
    """The step runs in a while loop, its rows split over devices; a lookup must be the same there."""
    rng = np.random.default_rng(1)
    database = database_of(*([rng.integers(0, 20, 400).tolist()] for _ in range(3)))
    last = jnp.asarray(rng.integers(0, 20, (64, 2)), jnp.int32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(last, NamedSharding(mesh, P("data")))

    @functools.partial(jax.jit, static_argnums=0)
    def walk(static, arrays, last):
        """Follows the best candidate's first token, eight times over."""

        def once(_, last):
            tokens, lengths = lookup(static, arrays, last, 2)
            drafted = jnp.where(lengths[:, :1] > 0, tokens[:, 0, :1], last[:, :1])
            return jnp.concatenate([last[:, 1:], drafted], axis=1)

        return jax.lax.fori_loop(0, 8, once, last)

    walked = last.tolist()
    shards = [[shard.tokens[:-1].tolist()] for shard in database.shards]
    for _ in range(8):
        for row in walked:
            best = plain_lookup(shards, tuple(row), 2, length=4, max_matches=5000)
            row[:] = [row[1], best[0][0] if best else row[0]]
    replicated = NamedSharding(mesh, P())
    for budget in (database.nbytes, 0):
        assert walk(*database.on_device(budget), last).tolist() == walked
        assert walk(*database.on_device(budget, sharding=replicated), split).tolist() == walked


def test_the_arrays_go_where_they_fit():
    """One byte too many keeps them on the host; the static part is hashable and compiles once."""
    database = database_of([[1, 2, 3]], [[1, 2]])
    assert database.nbytes == 8 * (4 + 3)
    static, arrays = database.on_device(database.nbytes)
    assert static.host is None and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arrays))
    assert len(jax.tree.leaves(arrays)) == 4
    on_host, nothing = database.on_device(database.nbytes - 1)
    assert on_host.host is not None and nothing == ()
    again, _ = database.on_device(0)
    assert hash(again) == hash(on_host) and again == on_host != static
    assert database.on_device(0, length=2)[0] != on_host


@pytest.mark.parametrize("wrong", [dict(length=0), dict(max_matches=0), dict(max_matches=2**15 + 1)])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        SuffixLookup(**wrong)


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """(directory of a finished database of two shards, its tokenizer)."""
    tokenizer = Tokenizer(tiny_tokenizer)
    written = write_shards([[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 5]], tmp_path, shard_tokens=9)
    assert written.shards == 2
    counts = dict(vocab_size=259, documents=3, tokens=11, order=0, ngrams=0, shards=2)
    names = dict(tokenizer=tokenizer.fingerprint, tokenizer_name="tiny", generated_by="")
    write_manifest(tmp_path, Manifest(kind="corpus", **names, **counts, settings={}, versions={}))
    return tmp_path, tokenizer


def test_a_saved_database_is_mapped_and_looked_up(saved):
    """Files larger than memory are never read whole."""
    database = StatisticsDatabase.open(*saved)
    assert not any(shard.tokens.flags.owndata or shard.suffixes.flags.owndata for shard in database.shards)
    for found in both(database, [(1, 2)], 2):
        assert lists(*found) == [[[4, 5], [3]]]


@pytest.mark.parametrize(
    "damage, error, message",
    [
        (lambda d: (d / "shard-00001.tokens.npy").unlink(), FileNotFoundError, "shard-00001.tokens.npy is missing"),
        (lambda d: (d / "shard-00001.suffixes.npy").write_bytes(b"x"), ValueError, "suffixes.npy is damaged"),
        (lambda d: np.save(d / "shard-00000.tokens.npy", np.zeros(9, np.int32)), ValueError, "do not fit"),
        (lambda d: np.save(d / "shard-00000.suffixes.npy", np.zeros(8, np.int32)), ValueError, "do not fit"),
        (lambda d: np.save(d / "shard-00000.tokens.npy", np.zeros(9, np.int64)), ValueError, "not int32 with 1 axes"),
    ],
)
def test_a_damaged_database_is_named(saved, damage, error, message):
    damage(saved[0])
    with pytest.raises(error, match=message):
        StatisticsDatabase.open(*saved)


def test_shards_are_pytrees_of_two_arrays():
    """A drafter carries them in its model."""
    shard = make_shard([[1, 2]])
    doubled = jax.tree.map(lambda leaf: leaf * 2, shard)
    assert isinstance(doubled, Shard) and doubled.tokens.tolist() == [2, 4, -2]
