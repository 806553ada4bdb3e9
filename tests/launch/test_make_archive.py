"""launch.make_archive: what a user runs to get a document of any length with questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make_archive(*flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "launch.make_archive", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_writes_document_and_questions_and_says_how_many(tmp_path):
    done = make_archive("--tokens=600", "--seed=5", f"--output={tmp_path / 'a'}")
    assert done.returncode == 0, done.stderr
    questions = [json.loads(line) for line in (tmp_path / "a" / "questions.jsonl").read_text().splitlines()]
    assert all(set(entry) == {"id", "task", "question", "answer", "choices", "working"} for entry in questions)
    assert f"{len(questions)} questions" in done.stdout
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "archivist")
    tokens = tokenizer.encode((tmp_path / "a" / "document.txt").read_text(), add_special_tokens=False)
    assert 560 <= len(tokens) <= 602

    again = make_archive("--tokens=600", "--seed=5", f"--output={tmp_path / 'b'}")
    assert again.returncode == 0
    for name in ("document.txt", "questions.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens=10", "--output={tmp}/a"], "at least 64 tokens, not 10"),
        (["--tokens=-5", "--output={tmp}/a"], "at least 64 tokens, not -5"),
        (["--output={tmp}/file"], "is a file; name a directory"),
        (["--output={tmp}/a", "--tokenizer={tmp}"], "holds no tokenizer.json"),
    ],
)
def test_bad_values_are_refused_in_one_line(tmp_path, flags, message):
    (tmp_path / "file").write_text("taken")
    done = make_archive(*(flag.format(tmp=tmp_path) for flag in flags))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--output=x", "--tokens=many"], ["--output=x", "stray"]])
def test_wrong_usage_exits_before_anything_is_written(tmp_path, flags):
    done = make_archive(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (ROOT / "x").exists()
