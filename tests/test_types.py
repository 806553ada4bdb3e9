"""What a type checker tells the users of the library: a misspelt method is found before it runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RIGHT = """
from rapid_jax import Answer, Engine, Passage, Stream

engine: Engine = Engine.load()
document = engine.read("text")
answer: Answer = document.ask("What?", method="rapid", eta=4.0)
stream: Stream = document.stream("What?")
passages: tuple[Passage, ...] = answer.passages
speed: float | None = answer.tokens_per_second
"""

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed (the lint extra)"),
    pytest.mark.slow,
]


WRONG = {
    ("engine.read(", "engine.raed("): '"Engine" has no attribute "raed"',
    ("document.ask(", "document.aks("): '"Document" has no attribute "aks"',
    ('engine.read("text")', "engine.read(3)"): "incompatible type",
    ("answer.passages", "answer.passage"): '"Answer" has no attribute "passage"',
    ("eta=4.0", "etta=4.0"): 'Unexpected keyword argument "etta" for "ask" of "Document"',
    ("eta=4.0", 'eta="b"'): 'Argument "eta" to "ask" of "Document" has incompatible type "str"',
    ("Passage, Stream", "Passage, Strem"): 'Module "rapid_jax" has no attribute "Strem"',
}


def test_a_misspelling_is_found_and_right_use_passes(tmp_path):
    """Were Engine `Any` for the checker, every misspelling would pass. One run, because a checker reads all of JAX."""
    right = tmp_path / "right.py"
    right.write_text(RIGHT)
    files = [right]
    for number, (old, new) in enumerate(WRONG):
        assert old in RIGHT
        files.append(tmp_path / f"wrong_{number}.py")
        files[-1].write_text(RIGHT.replace(old, new))
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "right.py:" not in done.stdout, done.stdout
    for number, message in enumerate(WRONG.values()):
        lines = [line for line in done.stdout.splitlines() if f"wrong_{number}.py:" in line]
        assert any(message in line for line in lines), done.stdout
