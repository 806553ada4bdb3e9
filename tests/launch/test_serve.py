"""launch.serve as a process: it says where it listens, answers, and ends in good order."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tiny_checkpoint, tmp_path):
    """A function: flags -> (process, URL)."""
    started = []

    def run(*flags):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        fixed = [
            f"--target={tiny_checkpoint}",
            "--port=0",
            "--method=lc",
            f"--store={tmp_path}",
            "--compilation_cache_dir=",
        ]
        command = [sys.executable, "-m", "launch.serve", *fixed, "--config.prefill_chunk=512", *flags]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        started.append(process)
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, process.communicate(timeout=60)
        return process, line.split(" at ")[1].strip()

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_server_answers_and_ends_in_good_order(start, document_text):
    """SIGTERM: the answer under way comes to its end, others are refused, the exit status is 0."""
    process, url = start()
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    made = httpx.post(f"{url}/v1/documents", json=dict(text=document_text), timeout=120).json()
    body = dict(model=model, messages=[dict(role="user", content="Who?")], document=made["id"], max_tokens=2000)
    first = httpx.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": 4}, timeout=120)
    assert first.status_code == 200
    got = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=120) as answer:
        lines = answer.iter_lines()
        got.append(next(lines))
        process.send_signal(signal.SIGTERM)
        got += list(lines)
    assert got[-2] == "data: [DONE]" and '"finish_reason":"length"' in "".join(got)
    assert process.wait(60) == 0
    assert not process.stderr.read().count("Traceback")


@pytest.mark.slow
def test_a_second_signal_ends_the_server_at_once(start, document_text):
    process, url = start("--grace_s=100")
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    made = httpx.post(f"{url}/v1/documents", json=dict(text=document_text), timeout=120).json()
    body = dict(model=model, messages=[dict(role="user", content="Who?")], document=made["id"], max_tokens=5000)
    ended = threading.Event()

    def ask():
        try:
            with httpx.stream(
                "POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=120
            ) as answer:
                for index, _ in enumerate(answer.iter_lines()):
                    if index == 2:
                        process.send_signal(signal.SIGTERM)
                    if index == 20:
                        process.send_signal(signal.SIGTERM)
        except httpx.HTTPError:
            pass
        ended.set()

    threading.Thread(target=ask).start()
    process.wait(60)
    assert ended.wait(60)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--method=magic"], "method must be one of"),
        (["--seats=0"], "seats"),
        (["--port=70000"], "port"),
        (["--memory_gb=nan"], "flag --memory_gb=nan: must be a finite number"),
        (["--store_gb=inf"], "flag --store_gb=inf: must be a finite number"),
        (["--api_key=\u00e9"], "api_key"),
        (["--config.mesh=2,1,1"], "first axis"),
    ],
)
def test_a_wrong_flag_is_one_line_before_anything_is_loaded(launch, tiny_checkpoint, flags, message):
    outcome = launch("serve", f"--target={tiny_checkpoint}", "--port=0", *flags)
    assert outcome.status == 2 and message in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_a_port_that_is_taken_is_one_line(launch, tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = launch("serve", f"--target={tiny_checkpoint}", f"--port={taken.getsockname()[1]}")
    assert outcome.status == 1 and "cannot listen at 127.0.0.1" in outcome.err and outcome.err.count("\n") == 1


def test_measuring_needs_a_server(launch):
    outcome = launch("measure_server", "--url=http://127.0.0.1:9")
    assert outcome.status == 1 and "no server answers" in outcome.err and outcome.err.count("\n") == 1
    outcome = launch("measure_server", "--context_file=a.txt")
    assert outcome.status == 2 and "go together" in outcome.err
