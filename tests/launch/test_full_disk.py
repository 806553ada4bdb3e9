"""Output that cannot be written, because the disk is full or nobody reads on: one line that names the place."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from launch import cli

ROOT = Path(__file__).resolve().parents[2]
FULL = Path("/dev/full")
REASON = "cannot be written: No space left on device"

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a file on a disk without room")


def check(outcome, message):
    assert (outcome.status, outcome.err) == (1, f"error: {message}\n")


@pytest.fixture
def full(tmp_path):
    """A function: name -> path of a file on a full disk."""

    def make(name):
        path = tmp_path / name
        path.symlink_to(FULL)
        return path

    return make


def test_a_file_on_a_full_disk_is_named_when_it_is_written_and_closes_silently():
    with cli.OutputFile("output", str(FULL)) as file:
        with pytest.raises(OSError) as error:
            file.write("an answer\n")
        assert str(error.value) == f"--output={FULL} {REASON}"


def test_half_a_character_of_an_answer_is_written_as_its_escape(tmp_path):
    """A lone surrogate has no UTF-8; JSON reads its escape back."""
    with cli.OutputFile("output", str(tmp_path / "out")) as file:
        file.write(json.dumps("a\ud83d", ensure_ascii=False))
    assert json.loads((tmp_path / "out").read_text(encoding="utf-8")) == "a\ud83d"


def test_generate_names_its_output(generate, tiny_checkpoint, document_text, tmp_path):
    (tmp_path / "document.txt").write_text(document_text, encoding="utf-8")
    asked = (f"--target={tiny_checkpoint}", f"--context_file={tmp_path / 'document.txt'}", "--query=Who?")
    check(generate(*asked, "--method=lc", "--max_new_tokens=1", f"--output={FULL}"), f"--output={FULL} {REASON}")


@pytest.fixture
def benchmark(launch, monkeypatch):
    """A function: flags -> Outcome of launch.benchmark with one made-up measurement."""
    room = "rapid_jax.benchmarking"
    bandwidth = {"gigabytes_per_second": 1.0, "kind": "copy", "array_bytes": 8}
    machine = {"device": "cpu", "devices": 1, "processor": "none", "cores": 1, "bandwidth": bandwidth}
    monkeypatch.setattr(f"{room}.random_weights.random_engine", lambda *_: mock.MagicMock(versions={}))
    monkeypatch.setattr(f"{room}.bandwidth.measure_bandwidth", lambda: None)
    monkeypatch.setattr(f"{room}.hardware.hardware", lambda *_: machine)
    measured = [SimpleNamespace(to_dict=lambda: {})]
    monkeypatch.setattr(f"{room}.sweep.run_sweep", lambda *_, **__: [measured])
    monkeypatch.setattr(f"{room}.plot.plot_speed_ups", lambda _, path, __: path.write_bytes(b"a plot"))
    return lambda *flags: launch("benchmark", "--random_weights", "--preset=llama31_8b", "--acceptance=1", *flags)


def test_benchmark_names_its_output(benchmark):
    check(benchmark(f"--output={FULL}"), f"--output={FULL} {REASON}")


def test_benchmark_names_its_plot(benchmark, full, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("rapid_jax.benchmarking.sweep.run_sweep", lambda *_, **__: [])
    path = full("speed.png")
    check(benchmark(f"--plot={path}"), f"--plot={path} {REASON}")


def test_plan_names_its_json(launch, monkeypatch):
    from rapid_jax.evaluation.tables import Table

    monkeypatch.setattr("rapid_jax.engine.engine.Engine.load", lambda **_: None)
    monkeypatch.setattr("rapid_jax.planning.measure.check", lambda *_, **__: None)
    monkeypatch.setattr("rapid_jax.planning.measure.table", lambda _: Table("", ("a",), (("b",),), ""))
    monkeypatch.setattr("rapid_jax.planning.measure.to_dict", lambda _: {"seconds": 1})
    check(launch("plan", "--measure", f"--json={FULL}"), f"--json={FULL} {REASON}")


@pytest.mark.parametrize("name", ["document.txt", "questions.jsonl"])
def test_make_archive_names_its_files(launch, full, tmp_path, name):
    path = full(name)
    check(launch("make_archive", "--tokens=600", f"--output={tmp_path}"), f"{path} {REASON}")


@pytest.mark.parametrize(
    "flags",
    [["launch.generate", "--help"], ["launch.make_archive", "--tokens=600", "--output={}"]],
    ids=["help", "end"],
)
def test_standard_output_that_takes_no_more_is_named(flags, tmp_path):
    """The second failure, when Python ends and flushes once more, must not follow with a traceback."""
    command = [sys.executable, "-m", *(flag.format(tmp_path) for flag in flags)]
    with FULL.open("w") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: standard output {REASON}\n")


def test_a_reader_that_has_seen_enough_ends_the_help_silently():
    """As `python -m launch.generate --help | head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "launch.generate", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
