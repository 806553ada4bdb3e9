"""launch.train: its refusals; what it trains is tested in tests/rapid_jax/training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "workdir"),
        (["--workdir={tmp}/run", "stray"], "unexpected argument 'stray'"),
        (["--workdir={tmp}/run", "--export_only"], "--export_only needs --export"),
        (["--workdir={tmp}/run", "--export_only", "--export={tmp}/out"], "train first"),
        (["--workdir={tmp}/file"], "is a file; name a directory"),
    ],
)
def test_bad_use_is_refused_without_a_traceback(tmp_path, flags, message):
    (tmp_path / "file").write_text("taken")
    command = [sys.executable, "-m", "launch.train", *(flag.format(tmp=tmp_path) for flag in flags)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
