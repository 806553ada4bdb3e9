"""Cutting a corpus into shards: nothing is lost, nothing is joined, and no more than one shard is needed at a time."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_jax.database_building.suffix_arrays import remove_shards, write_shards
from rapid_jax.databases.shards import SENTINEL, map_shards


def read(directory, count):
    """Each shard as its documents."""
    shards = []
    for shard in map_shards(directory, count):
        tokens = shard.tokens.tolist()
        assert sorted(shard.suffixes.tolist()) == list(range(len(tokens)))
        ends = [position for position, token in enumerate(tokens) if token == SENTINEL]
        assert ends[-1] == len(tokens) - 1
        shards.append([tokens[begin:end] for begin, end in zip([0, *(e + 1 for e in ends)], ends, strict=False)])
    return shards


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """Thousands of small files are written here, and none of them has to survive a power failure."""
    with mock.patch("os.fsync"):
        yield


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 70_000), max_size=12), max_size=10), st.integers(2, 30))
def test_every_token_is_in_one_shard_in_its_order(tmp_path_factory, documents, shard_tokens):
    directory = tmp_path_factory.mktemp("shards")
    real = [document for document in documents if document]
    if not real:
        with pytest.raises(ValueError, match="the corpus holds no tokens"):
            write_shards(documents, directory, shard_tokens=shard_tokens)
        return
    written = write_shards(documents, directory, shard_tokens=shard_tokens)
    assert (written.documents, written.tokens) == (len(real), sum(map(len, real)))
    shards = read(directory, written.shards)
    assert len(list(directory.iterdir())) == 2 * written.shards
    assert all(sum(len(piece) + 1 for piece in shard) <= shard_tokens for shard in shards)
    pieces = [piece for shard in shards for piece in shard]
    longest = shard_tokens - 1
    assert pieces == [d[start : start + longest] for d in real for start in range(0, len(d), longest)]
    for shard, following in zip(shards, shards[1:], strict=False):
        assert sum(len(piece) + 1 for piece in shard) + len(following[0]) + 1 > shard_tokens  # it would not have fitted


def test_documents_are_taken_as_they_are_needed(tmp_path):
    """A corpus larger than memory: a shard is on disk before the documents of the one after the next are read."""
    on_disk = []

    def documents():
        for number in range(6):
            on_disk.append(len(list(tmp_path.glob("*.suffixes.npy"))))
            yield np.full(9, number)

    assert write_shards(documents(), tmp_path, shard_tokens=20).shards == 3
    assert on_disk == [0, 0, 0, 1, 1, 2]


def test_what_an_unfinished_build_left_is_removed(tmp_path):
    """A later, smaller corpus must not carry the rest of an earlier one."""
    write_shards([[1, 2], [3, 4], [5, 6]], tmp_path, shard_tokens=3)
    (tmp_path / "notes.txt").write_text("mine")
    remove_shards(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "documents, shard_tokens, message",
    [
        ([[1]], 1, "shard_tokens must be in"),
        ([[1]], 2**31, "shard_tokens must be in"),
        ([[1], [], [2, -1]], 8, "document 2 has the token id -1"),
        ([], 8, "the corpus holds no tokens"),
    ],
)
def test_what_cannot_be_sorted_is_refused(tmp_path, documents, shard_tokens, message):
    with pytest.raises(ValueError, match=message):
        write_shards(documents, tmp_path, shard_tokens=shard_tokens)
