"""launch.evaluate and launch.report as a user starts them: one-line errors, a small evaluation, and being killed."""

import json
import random
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "launch.evaluate"]


def run(*flags, module="launch.evaluate"):
    command = [sys.executable, "-m", module, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (["--context_lengths=abc"], 2, "--context_lengths must be whole numbers of at least 64 tokens"),
        (["--methods=foo"], 2, "unknown method 'foo'; known: lc, rag, sd, rapid"),
        (["--limit=0"], 2, "--limit=0"),
        (["--benchmark=arc"], 2, "--benchmark=arc"),
        (["--benchmark=infinitebench"], 2, "--benchmark=infinitebench needs --data=PATH"),
        (
            ["--benchmark=specbench", "--data=x", "--methods=lc,rapid"],
            2,
            "rapid retrieves, and specbench has no documents",
        ),
        (["--benchmark=longbench_v2", "--data=no/such.json"], 1, "no/such.json"),
        (["--sweep=eta"], 2, "--sweep: a sweep is NAME=VALUE"),
        (["--sweep=gamma=0"], 2, "gamma must be at least 1 token"),
        (["--benchmark=specbench", "--data=x", "--methods=lc", "--rules=1"], 2, "--rules needs passages"),
        (["--context_lengths=200000"], 1, "200000 tokens are more than the model has room for"),
        (["--sweep=drafter=no/such"], 1, "no/such"),
        (["--tasks=riddle"], 1, "tasks must be some of fact, choice, dossier, whole"),
        (["--output=setup.cfg"], 1, "--output=setup.cfg is a file"),
    ],
)
def test_bad_flags_are_one_line(flags, status, message):
    """A long evaluation must not start, or end in a traceback, over a misspelt flag."""
    done = run(*flags)
    assert done.returncode == status and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "DIR is missing"),
        (["a", "b"], 2, "unexpected argument 'b'"),
        (["no/such/directory"], 1, "holds no results"),
    ],
)
def test_a_report_of_nothing_is_one_line(arguments, status, message):
    """A report of a misspelt directory must say what is missing."""
    done = run(*arguments, module="launch.report")
    assert done.returncode == status and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


SMALL = ("--context_lengths=300", "--archives=1", "--limit=2", "--batch=2", "--methods=lc,rapid")


@pytest.mark.slow
def test_answers_are_scored_stored_and_reported(tmp_path):
    """From the command to the page: every answer is a line, and the tables name what was asked."""
    output = tmp_path / "out"
    done = run(*SMALL, "--sweep=eta=0,10", "--rules=1", f"--output={output}")
    assert done.returncode == 0, done.stderr
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert {(r["method"], r["variation"].get("eta")) for r in records} == {
        ("lc", None),
        ("rapid", 0.0),
        ("rapid", 10.0),
    }
    assert all(0 <= r["scores"]["score"] <= 1 and r["context_length"] == 300 for r in records)
    assert "300 tokens" in done.stdout and "rapid (eta 10)" in done.stdout and "speed-up, decode only" in done.stdout
    changed = run(*SMALL, "--config.speculation.gamma=3", f"--output={output}")
    assert changed.returncode == 1 and "config.speculation.gamma = 10, this run has 3" in changed.stderr
    drawn = run(str(output), module="launch.report")
    assert drawn.returncode == 0, drawn.stderr
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "## Verification rules" in text and "### Differences" in text
    assert "<svg" in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_evaluation_killed_ten_times_gives_the_undisturbed_report(tmp_path):
    """kill -9 at random moments: nothing is lost, repeated or changed."""
    flags = ("--context_lengths=300,400", "--archives=2", "--limit=4", "--batch=2", "--methods=lc,rag,sd,rapid")
    cache = f"--compilation_cache_dir={tmp_path / 'cache'}"
    assert run(*flags, cache, f"--output={tmp_path / 'whole'}").returncode == 0
    rng = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            [*COMMAND, *flags, cache, f"--output={tmp_path / 'killed'}"], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(3, 12))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert run(*flags, cache, f"--output={tmp_path / 'killed'}").returncode == 0
    reports = []
    for name in ("whole", "killed"):
        assert run(str(tmp_path / name), "--timings=false", module="launch.report").returncode == 0
        reports.append((tmp_path / name / "report.html").read_text(encoding="utf-8"))
    assert reports[0] == reports[1]
