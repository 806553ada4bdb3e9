"""launch.evaluate as a user starts it: one-line errors, and a small evaluation of the embedded model."""

import json
import subprocess
import sys

import pytest


def run(*flags):
    command = [sys.executable, "-m", "launch.evaluate", "--compilation_cache_dir=", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    "flag, status, message",
    [
        ("--lengths=abc", 2, "--lengths must be whole numbers of at least 64 tokens"),
        ("--methods=foo", 2, "unknown method 'foo'; known: lc, rag, sd, rapid"),
        ("--limit=0", 2, "--limit=0"),
        ("--output=no/such/x.jsonl", 1, "there is no directory"),
    ],
)
def test_bad_flags_are_one_line(flag, status, message):
    """A long evaluation must not start, or end in a traceback, over a misspelt flag."""
    done = run(flag)
    assert done.returncode == status and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_answers_are_scored_and_written(tmp_path):
    """Every answer is a line of the file, and the table names what was asked."""
    output = tmp_path / "out.jsonl"
    done = run("--lengths=300", "--archives=1", "--limit=2", "--batch=2", f"--output={output}")
    assert done.returncode == 0, done.stderr
    items = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert {item["method"] for item in items} == {"lc"} and {"fact", "dossier"} <= {item["task"] for item in items}
    assert all(0 <= item["score"] <= 1 and item["context_length"] == 300 for item in items)
    assert "300 tokens" in done.stdout and "fact" in done.stdout
