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


def checked(tmp_path, source):
    file = tmp_path / "use.py"
    file.write_text(source)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    return done.returncode, done.stdout


def test_right_use_passes(tmp_path):
    status, out = checked(tmp_path, RIGHT)
    assert status == 0, out


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("engine.read(", "engine.raed(", '"Engine" has no attribute "raed"'),
        ("document.ask(", "document.aks(", '"Document" has no attribute "aks"'),
        ('engine.read("text")', "engine.read(3)", "incompatible type"),
        ("answer.passages", "answer.passage", '"Answer" has no attribute "passage"'),
        ("import Answer, Engine", "import Answer, Engin, Engine", 'has no attribute "Engin"'),
    ],
)
def test_a_misspelling_is_found(tmp_path, right, wrong, message):
    """Were Engine `Any` for the checker, every one of these would pass."""
    assert right in RIGHT
    status, out = checked(tmp_path, RIGHT.replace(right, wrong))
    assert status == 1 and message in out
