"""launch.train: its refusals; what it trains is tested in tests/rapid_jax/training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rapid_jax.training.recipe import RECIPES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "workdir"),
        (["--workdir={tmp}/run", "stray"], 2, "unexpected argument 'stray'"),
        (["--workdir={tmp}/run", "--export_only"], 2, "--export_only needs --export"),
        (["--workdir={tmp}/run", "--export_only", "--export={tmp}/out"], 1, "train first"),
        (["--workdir={tmp}/file"], 1, "--workdir={tmp}/file is a file; name a directory"),
        (["--workdir={tmp}/run", "--export={tmp}/file"], 1, "--export={tmp}/file is a file; name a directory"),
        (["--workdir={tmp}/run", "--model=llama"], 2, "|".join(RECIPES)),
        (["--workdir={tmp}/run", "--initial={tmp}"], 1, "--initial={tmp} holds no tokenizer.model; name a model"),
        (["--workdir={tmp}/run", "--model=archivist-small"], 2, "made out of another one; give --initial="),
    ],
)
def test_bad_use_is_refused_without_a_traceback(tmp_path, flags, status, message):
    (tmp_path / "file").write_text("taken")
    command = [sys.executable, "-m", "launch.train", *(flag.format(tmp=tmp_path) for flag in flags)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message.format(tmp=tmp_path) in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def run_of(directory: Path, model: str, pieces: bytes = b"pieces") -> Path:
    """What is left of a run that was stopped early."""
    directory.mkdir()
    (directory / "model.txt").write_text(model)
    (directory / "tokenizer.model").write_bytes(pieces)
    return directory


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        ("archivist", "holds a run of archivist; name another directory for archivist-large"),
        ("archivist-large", "holds a run with another tokenizer than"),
    ],
)
def test_a_directory_of_another_run_is_refused(tmp_path, begun, message):
    """Its checkpoints have other shapes, or ids that mean something else."""
    workdir = run_of(tmp_path / "run", begun)
    command = [sys.executable, "-m", "launch.train", "--model=archivist-large", "--initial=assets/archivist"]
    done = subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
