"""launch.chat: lines in, answers out; commands, what is wrong with them, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def chat(launch, tiny_checkpoint, document_text, tmp_path_factory):
    """A function: lines and flags -> Outcome, on the tiny checkpoint, eight new tokens."""
    file = tmp_path_factory.mktemp("chat") / "document.txt"
    file.write_text(document_text, encoding="utf-8")

    def run(lines, *flags):
        given = [f"--target={tiny_checkpoint}", f"--context_file={file}", "--max_new_tokens=8", *flags]
        return launch("chat", *given, stdin="\n".join([*lines, ""]).encode())

    return run


def test_questions_are_answered_and_commands_heeded(chat, tmp_path):
    """A whole session: two questions, another method, figures, a page, the document on disk."""
    page, saved = tmp_path / "page.html", tmp_path / "saved"
    outcome = chat(
        [
            "/stats",
            "Who keeps the kettle?",
            "/method rapid",
            "/eta 2",
            "Where is it?",
            "/passages",
            "/stats",
            f"/trace {page}",
            f"/save {saved}",
            "/new",
            "/nothing",
            "/eta many",
            "/method fast",
            "/help",
            "/quit",
            "Who never asks?",
        ],
        "--method=lc",
    )
    assert outcome.status == 0, outcome.err
    assert "error: there is no answer yet" in outcome.out
    assert "answers are decoded with rapid" in outcome.out and "eta is 2.0" in outcome.out
    assert "passage 1:" in outcome.out and "tokens/step" in outcome.out
    assert "were not read again" in outcome.out
    assert f"{page} shows 2 answers" in outcome.out and "Where is it?" in page.read_text(encoding="utf-8")
    assert f"--document={saved}" in outcome.out and (saved / "manifest.json").is_file()
    assert "the next question sees the document alone" in outcome.out
    assert "there is no command /nothing" in outcome.out and "eta must be a number" in outcome.out
    assert "unknown method" in outcome.out and "/passages" in outcome.out
    assert "Who never asks?" not in outcome.out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--method=fast"], "--method"),
        (["--context_file=-"], "--context_file=- is standard input"),
        (["--conversation_tokens=100000"], "leave no room for a document"),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=0"], "is for one host"),
    ],
)
def test_flags_that_are_wrong_are_said_in_one_line(launch, tiny_checkpoint, flags, message):
    outcome = launch("chat", f"--target={tiny_checkpoint}", *flags)
    assert outcome.status in (1, 2) and message in outcome.err and outcome.err.count("\n") == 1


def test_room_that_is_asked_for_is_kept_behind_the_embedded_document_too(launch):
    """A flag that is given and ignored would be found out when the conversation has no room."""
    outcome = launch("chat", "--conversation_tokens=1000000")
    assert outcome.status == 1 and "1000000 tokens for a conversation leave no room" in outcome.err


def test_an_interrupt_ends_the_answer_and_keeps_the_conversation(tmp_path):
    """The embedded model would write 113 tokens; the program goes on with the next line."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "launch.chat", "--method=lc", "--compilation_cache_dir=", "--store="]
    command += ["--config.burst_steps=1", "--config.max_context_tokens=2000"]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("Write out all the records of Fequil Brenard.\n")
        process.stdin.flush()
        seen = ""
        while "commands" not in seen or not seen.partition("commands")[2].partition("\n\n")[2].strip():
            character = process.stdout.read(1)
            assert character, process.stderr.read()
            seen += character
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        out, err = process.communicate("/stats\n", timeout=300)
    assert process.returncode == 0, err
    assert "(stopped)" in out and "stopped" in out.partition("finish")[2]
