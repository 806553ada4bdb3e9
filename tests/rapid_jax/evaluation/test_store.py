"""Results on disk: what a killed run leaves behind, and what must never be mixed."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from rapid_jax.evaluation.store import RESULTS, ResultStore, complete_bytes, flatten, read_manifest, read_results

MANIFEST = {"benchmark": {"name": "archive"}, "config": {"dtype": "float32", "mesh": (1, 1, 1)}}

WRITER = """
import sys, time
from pathlib import Path
from rapid_jax.evaluation.store import ResultStore
with ResultStore(Path(sys.argv[1]), {"benchmark": {"name": "count"}}) as store:
    for start in range(0, 400, 4):
        records = [{"key": str(n), "text": "x" * 5000} for n in range(start, start + 4) if str(n) not in store]
        if records:
            store.append(records)
"""


def record(key, **fields):
    return {"key": key, **fields}


def test_results_come_back_in_order_and_are_known(tmp_path):
    """What was answered is never asked again."""
    with ResultStore(tmp_path / "new", MANIFEST) as store:
        store.append([record("a", text="é"), record("b")])
        assert "a" in store and "c" not in store
    with ResultStore(tmp_path / "new", MANIFEST) as store:
        assert "b" in store
        store.append([record("c")])
        with pytest.raises(ValueError, match="result c is already there"):
            store.append([record("c")])
    assert [r["key"] for r in read_results(tmp_path / "new")] == ["a", "b", "c"]
    assert read_manifest(tmp_path / "new")["config"]["mesh"] == [1, 1, 1]


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_line_cut_off_by_a_crash_is_written_again(tmp_path, cut):
    """Half a line at the end must neither count as a result nor spoil the next one."""
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append([record("a"), record("b", text="a long enough text")])
    path = tmp_path / RESULTS
    path.write_bytes(path.read_bytes()[:-cut])
    assert [r["key"] for r in read_results(tmp_path)] == ["a"]
    with ResultStore(tmp_path, MANIFEST) as store:
        assert "a" in store and "b" not in store
        store.append([record("b")])
    assert [r["key"] for r in read_results(tmp_path)] == ["a", "b"]


def test_another_configuration_is_refused_by_name(tmp_path):
    """Results of two settings in one table would be compared as if they were one."""
    other = {**MANIFEST, "config": {"dtype": "bfloat16", "mesh": (1, 1, 1)}}
    ResultStore(tmp_path, other).__exit__()  # a run that ended before its first answer binds nobody
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append([record("a")])
    with pytest.raises(ValueError, match=r"config.dtype = 'float32', this run has 'bfloat16'"):
        ResultStore(tmp_path, other)
    with ResultStore(tmp_path, MANIFEST) as store:
        assert "a" in store
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="without their manifest.json"):
        ResultStore(tmp_path, MANIFEST)


def test_a_second_writer_is_refused(tmp_path):
    """Two evaluations in one directory would ask everything twice."""
    with ResultStore(tmp_path, MANIFEST), pytest.raises(OSError, match="being written by another evaluation"):
        ResultStore(tmp_path, MANIFEST)


def test_a_line_that_is_no_result_is_named(tmp_path):
    """A file that was edited by hand must say where."""
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append([record("a")])
    with (tmp_path / RESULTS).open("a", encoding="utf-8") as file:
        file.write('{"no": "key"}\n')
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: not a result"):
        ResultStore(tmp_path, MANIFEST)


def test_no_results_are_said_to_be_none(tmp_path):
    """A misspelt directory must not look like an empty evaluation."""
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no manifest.json"):
        read_manifest(tmp_path)


def test_a_writer_killed_ten_times_loses_and_repeats_nothing(tmp_path):
    """kill -9 at random moments: every result is there once, in order, in the end."""
    rng = random.Random(0)
    kills = 0
    while True:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        if kills < 10:
            while not (tmp_path / RESULTS).exists() and writer.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            kills += 1
        writer.wait()
        if kills == 10 and writer.returncode == 0:
            break
    lines = (tmp_path / RESULTS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == [str(n) for n in range(400)]
    assert complete_bytes(tmp_path / RESULTS) == (tmp_path / RESULTS).stat().st_size


def test_flatten_gives_dotted_names():
    """The message about a changed setting must name it as its flag does."""
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}


def test_an_answer_is_on_disk_before_the_next_one_is_begun(tmp_path, monkeypatch):
    """A power cut must not lose what was answered: the file is forced to the disk with all that was appended."""
    forced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: forced.append(os.fstat(descriptor)))
    with ResultStore(tmp_path, MANIFEST) as store:
        for key in "ab":
            before = len(forced)
            store.append([record(key, text="x" * 1000)])
            results = [seen for seen in forced[before:] if seen.st_ino == (tmp_path / RESULTS).stat().st_ino]
            assert [seen.st_size for seen in results] == [(tmp_path / RESULTS).stat().st_size]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_names_the_file_and_spoils_nothing(tmp_path, monkeypatch, call):
    """The line says where room is needed; what was there before is there afterwards, and the run goes on from it."""
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append([record("a")])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with ResultStore(tmp_path, MANIFEST) as store:
        if call == "fsync":
            monkeypatch.setattr("os.fsync", mock.Mock(side_effect=full))
        else:
            store._file = mock.Mock(wraps=store._file, write=mock.Mock(side_effect=full))
        with pytest.raises(OSError, match=rf"{RESULTS} cannot be written: No space left on device$"):
            store.append([record("b")])
        assert "b" not in store
    monkeypatch.undo()
    with ResultStore(tmp_path, MANIFEST) as store:
        assert "a" in store


def test_a_full_disk_names_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match=r"manifest.json.part cannot be written: No space left on device"):
        ResultStore(tmp_path, MANIFEST)


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    """A file name or a text that is not well-formed must not end the run; it is read back as U+FFFD."""
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append([record("a", text="x\ud800y")])
    assert b"x\\ud800y" in (tmp_path / RESULTS).read_bytes()
    assert read_results(tmp_path)[0]["text"] == "x\N{REPLACEMENT CHARACTER}y"
