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
