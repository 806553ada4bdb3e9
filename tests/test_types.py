"""What a user's type checker and editor see of the packages: every public name with its type."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import models
import rapid_jax

ROOT = Path(__file__).resolve().parents[1]

RIGHT = """
from collections.abc import Iterator

import models
from rapid_jax import Answer, ChatConfig, Document, Engine, EngineConfig, METHODS, Passage, SamplingConfig, Stream

engine: Engine = Engine.load("path", config=EngineConfig(sampling=SamplingConfig(top_k=3), chat=ChatConfig()))
document: Document = engine.read("text", keep=(3, 4), progress=lambda done, total: print(done, total))
answer: Answer = document.ask("question", method="sd", eta=5, temperature=0.5, stop=("END",))
passages: tuple[Passage, ...] = answer.passages
speed: float | None = answer.tokens_per_second
stream: Stream = document.stream("question", retrieval_query="words")
pieces: Iterator[str] = iter(stream)
answers: list[Answer] = engine.ask_many(document, ["a", "b"], max_chunks=3, gamma=2)
again: Document = engine.converse([{"role": "user", "content": "text"}], after=engine.converse([]))
summary: str = METHODS["lc"].summary
model = models.load("path")
tokens: list[int] = model.tokenizer.encode("text")
"""

WRONG = {
    "engine.reed('text')": '"Engine" has no attribute "reed"',
    "engine.read(3)": 'Argument 1 to "read" of "Engine" has incompatible type "int"; expected "str"',
    "engine.read('text', keeps=(1, 2))": 'Unexpected keyword argument "keeps" for "read" of "Engine"',
    "engine.read('text').asks('a')": '"Document" has no attribute "asks"',
    "engine.read('text').ask('a', gama=3)": 'Unexpected keyword argument "gama" for "ask" of "Document"',
    "engine.read('text').ask('a', eta='b')": 'Argument "eta" to "ask" of "Document" has incompatible type "str"',
    "engine.read('text').ask('a').txt": '"Answer" has no attribute "txt"',
    "engine.read('text').stream('a').answers": '"Stream" has no attribute "answers"',
    "engine.ask_many('text', ['a'])": 'Argument 1 to "ask_many" of "Engine" has incompatible type "str"',
    "rapid_jax.EngineConfig(tarket='a')": 'Unexpected keyword argument "tarket" for "EngineConfig"',
    "rapid_jax.Engin": 'Module has no attribute "Engin"',
    "models.lode('a')": 'Module has no attribute "lode"',
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy says about a program that is right and about one with a mistake in every line, by line."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy: pip install mypy")
    directory = tmp_path_factory.mktemp("types")
    lines = ["import models, rapid_jax", "engine = rapid_jax.Engine.load()", *WRONG]
    (directory / "right.py").write_text(RIGHT, encoding="utf-8")
    (directory / "wrong.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "right.py",
        "wrong.py",
    ]
    environment = {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(directory / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_program_that_is_right_has_no_complaint(checked):
    assert [line for line in checked if line.startswith("right.py")] == []


@pytest.mark.parametrize("number, line", enumerate(WRONG, start=3), ids=list(WRONG))
def test_a_mistake_is_found_by_mypy(checked, number, line):
    """A name that comes through a lazy import as Any would let all of them pass."""
    found = [said for said in checked if said.startswith(f"wrong.py:{number}: error: ")]
    assert found and WRONG[line] in found[0]


@pytest.mark.parametrize("package", [rapid_jax, models])
def test_every_public_name_is_there_and_listed(package):
    assert {name for name in package.__all__ if getattr(package, name) is None} == set()
    assert set(package._HOMES) == set(package.__all__) <= set(dir(package))
    assert (Path(package.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Engin'"):
        package.Engin  # noqa: B018
