"""A server that is killed while it saves: the next one opens what was kept whole, or reads again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rapid_jax.saving.store import DocumentStore

ROOT = Path(__file__).resolve().parents[3]
SAVING = """
import sys
from rapid_jax import Engine, EngineConfig
from rapid_jax.saving.store import DocumentStore

engine = Engine.load(config=EngineConfig(target=sys.argv[1], prefill_chunk=512))
store, text = DocumentStore(sys.argv[2], 10**9), sys.stdin.read()
document = engine.read(text)
print("read", flush=True)
for number in range(10_000):
    document.save(store.place(document.key))
    print("saved", number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.13, 0.31])
def test_a_process_that_is_killed_while_it_saves_leaves_what_can_be_opened(
    serving_engine, tiny_checkpoint, document_text, questions, read, tmp_path, delay
):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", SAVING, str(tiny_checkpoint), str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        process.stdin.write(document_text)
        process.stdin.close()
        assert process.stdout.readline() == "read\n"
        if delay:
            assert process.stdout.readline().startswith("saved")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    store = DocumentStore(tmp_path, 10**9)
    again = serving_engine.read(document_text, store=store)
    assert (again.reading_seconds is not None) == bool(delay), "what was saved once is opened"
    assert again.ask(questions[0], "lc").token_ids == read.ask(questions[0], "lc").token_ids
    again.save(store.place(read.key))
    assert serving_engine.read(document_text, store=store).reading_seconds is not None
    assert len(list(store.place(read.key).glob("*/"))) == 1, "what the killed one left is gone"
