"""What a build leaves on disk: all of it, through to the disk, and nothing of an earlier build."""

import errno
import os
from unittest import mock

import numpy as np
import pytest

from models.tokenizer import load_tokenizer
from rapid_jax.database_building.arrays import save_array
from rapid_jax.database_building.build import build_corpus_database
from rapid_jax.databases.manifest import FILE
from rapid_jax.databases.suffix_array import StatisticsDatabase

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return load_tokenizer(tiny_checkpoint)


def build(directory, tokenizer, texts, **settings):
    return build_corpus_database(texts, tokenizer, directory, target_name="tiny", corpus={}, **settings)


def shards(directory):
    return sorted(path.name for path in directory.glob("shard-*"))


def test_a_database_that_is_built_anew_keeps_no_shard_of_the_one_before(tmp_path, tokenizer):
    """A build that was stopped, or one of a larger corpus, leaves shards that a later and smaller one must not keep."""
    build(tmp_path, tokenizer, ["one two three four"] * 6, shard_tokens=24)
    assert len(shards(tmp_path)) == 12
    build(tmp_path, tokenizer, ["one two three four"], shard_tokens=24)
    assert shards(tmp_path) == ["shard-00000.suffixes.npy", "shard-00000.tokens.npy"]
    assert StatisticsDatabase.open(tmp_path, tokenizer).shards


def test_arrays_are_forced_to_the_disk_before_the_manifest_says_so(tmp_path, tokenizer, monkeypatch):
    """A manifest beside arrays that a power cut has emptied would call a broken database finished."""
    forced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: forced.append(os.fstat(descriptor).st_ino))
    build(tmp_path, tokenizer, ["one two"])
    inodes = [(tmp_path / name).stat().st_ino for name in ("shard-00000.tokens.npy", "shard-00000.suffixes.npy", FILE)]
    assert forced == inodes


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_full_disk_names_the_array(tmp_path, size):
    (tmp_path / "a.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"a\.npy cannot be written: "):
        save_array(tmp_path / "a.npy", np.zeros(size, np.int32))


def test_a_full_disk_names_the_manifest_and_the_directory(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / f"{FILE}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"{FILE}\.part cannot be written: No space left on device"):
        build(tmp_path / "db", tokenizer, ["one two"])
    assert not (tmp_path / "db" / FILE).exists()
    monkeypatch.setattr("pathlib.Path.mkdir", mock.Mock(side_effect=FULL))
    with pytest.raises(OSError, match=r"new cannot be written: No space left on device"):
        build(tmp_path / "new", tokenizer, ["one two"])
