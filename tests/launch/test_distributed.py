"""Several hosts as a user starts them: the tokens of one host, one output, one store, one-line errors."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(name, *flags, devices, cwd=ROOT):
    xla = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": xla, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"launch.{name}", "--compilation_cache_dir=", *map(str, flags)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def on_two_hosts(name, *flags, own=((), ()), directories=(ROOT, ROOT)):
    """Status, standard output and standard error of two processes with four devices each.

    `own` are more flags of each, `directories` where they run."""
    common = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--start_timeout=120", *flags]
    processes = [start(name, *common, f"--process_id={i}", *own[i], devices=4, cwd=directories[i]) for i in range(2)]
    outcomes = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, *outcome) for process, outcome in zip(processes, outcomes, strict=True)]


def messages(text):
    """Lines of standard error, progress of a slow machine left out."""
    return [line for line in text.splitlines() if not line.startswith(("prefill: ", "loading: ", "compiling: "))]


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--coordinator=a:1"],
            "--coordinator, --num_processes and --process_id go together: --num_processes is missing",
        ),
        (["--process_id=0", "--num_processes=2"], "go together: --coordinator is missing"),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], "--coordinator must be HOST:PORT, got 'a'"),
        (["--coordinator=a:x", "--num_processes=2", "--process_id=0"], "--coordinator must be HOST:PORT, got 'a:x'"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id=2 of 2 processes"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=0", "--distributed"], "--distributed asks the"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(generate, flags, message):
    """Before any host waits for another."""
    outcome = generate(*flags)
    assert outcome.status == 2 and message in outcome.err
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_an_environment_without_hosts_is_one_line():
    """--distributed on a single machine."""
    process = start("generate", "--distributed", "--start_timeout=1", devices=1)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("error: the environment names no hosts that could be joined")


def test_a_host_that_waits_in_vain_is_one_line():
    """The command was started on the second host alone."""
    flags = (f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id=1", "--start_timeout=1")
    process = start("generate", *flags, devices=1)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("error: the hosts have not met at localhost:")


@pytest.fixture(scope="module")
def question(tiny_checkpoint, document_text, tmp_path_factory):
    """Flags of a small question to the tiny checkpoint, eight new tokens."""
    document = tmp_path_factory.mktemp("document") / "document.txt"
    document.write_text(document_text, encoding="utf-8")
    flags = [f"--target={tiny_checkpoint}", f"--context_file={document}", "--query=Who keeps the ferry Harrow?"]
    return [*flags, "--max_new_tokens=8", "--config.prefill_chunk=256"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh, method", [("1,4,2", "lc,rapid,hd"), ("2,2,2", "lc,rapid,copy,auto")])
def test_two_hosts_give_the_tokens_of_one(question, tmp_path, mesh, method):
    """The same answers, printed and written by the first host alone."""
    flags = [*question, f"--method={method}", f"--config.mesh={mesh}"]
    process = start("generate", *flags, f"--output={tmp_path / 'one.jsonl'}", devices=8)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    first, second = on_two_hosts("generate", *flags, f"--output={tmp_path / 'two.jsonl'}")
    assert first[0] == 0 and second[0] == 0, first[2] + second[2]
    answers = [
        [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("one.jsonl", "two.jsonl")
    ]
    assert [a["token_ids"] for a in answers[1]] == [a["token_ids"] for a in answers[0]]
    kept = [[a["acceptance"] for a in host if a["method"] not in ("copy", "auto")] for host in answers]
    assert kept[1] == kept[0], "drafts of copy and auto are as long as clocks say"
    assert "tokens/step" in first[1] and messages(first[2]) == []
    assert second[1:] == ("", "")


@pytest.mark.slow
def test_errors_name_their_host_and_end_both(question, tiny_checkpoint, tmp_path):
    """What is wrong on both, on the first (which reads the document), in a flag, and on the second alone."""
    first, second = on_two_hosts("generate", *question, "--method=lc", "--config.mesh=1,2,2")
    assert (first[0], second[0]) == (1, 1) and first[1] + second[1] == ""
    line = "error: mesh (1, 2, 2) uses no device of host 1 of 2: give one of all 8 devices\n"
    assert (first[2], second[2]) == (line, "host 1: " + line)
    first, second = on_two_hosts("generate", *question, "--context_file=no/such.txt")
    assert (first[0], second[0]) == (1, 1)
    assert first[2] == "error: no/such.txt: no such file\n" and second[1:] == ("", "")
    first, second = on_two_hosts("generate", *question, own=((), ("--max_new_tokens=9",)))
    line = "error: the command of host 1 is not that of host 0; start the same command on all\n"
    assert (first[0], second[0], first[2], second[2]) == (1, 1, line, "host 1: " + line)
    target, places = f"--target={tiny_checkpoint.name}", (tiny_checkpoint.parent, tmp_path)
    first, second = on_two_hosts("generate", *question, target, "--config.mesh=1,4,2", directories=places)
    assert (first[0], second[0], first[2]) == (1, 1, "error: host 1 has failed and says why\n")
    assert second[2].startswith("host 1: error: ") and tiny_checkpoint.name in second[2]
    assert second[2].count("\n") == 1


@pytest.mark.slow
def test_an_evaluation_has_one_store(tmp_path):
    """The first host writes, and both go on where it stopped."""
    output = tmp_path / "out"
    flags = ["--context_lengths=300", "--archives=1", "--tasks=fact", "--limit=2", "--batch=2", "--methods=lc,rapid"]
    flags += ["--rules=1", "--config.mesh=1,4,2", f"--output={output}"]
    for _ in range(2):
        first, second = on_two_hosts("evaluate", *flags)
        assert first[0] == 0 and second[0] == 0, first[2] + second[2]
        assert "speed-up, decode only" in first[1] and second[1:] == ("", "")
        records = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        assert sorted(record["method"] for record in records) == ["lc", "lc", "rapid", "rapid"]
    assert (output / "rules.jsonl").read_text(encoding="utf-8").count("\n") == 4
    with (output / "results.jsonl").open("r+", encoding="utf-8") as file:
        file.truncate(0)  # the first host alone knows that there is something to do again
    first, second = on_two_hosts("evaluate", *flags)
    assert first[0] == 0 and second[0] == 0, first[2] + second[2]
    assert len((output / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 4
