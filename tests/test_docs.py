"""The pages that a stranger reads: every link leads somewhere, every example runs, every name and flag exists.

A ```python block that begins with "# needs" (the hub, Ray) is compiled and not run. The blocks of a page share their names and
run in order, as in a notebook.
"""

import ast
import contextlib
import functools
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.marks import quick

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "assets/README.md", "reports/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = ("# needs the hub", "# needs Ray")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Fenced blocks of a page, of one language or of all."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for kind, text in found if language is None or kind == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    return broken


def test_all_pages_are_looked_at():
    """A renamed folder would pass every test by holding nothing."""
    assert {"README.md", "docs/architecture.md", "docs/getting_started.md", "docs/limits.md"} <= set(NAMES)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page of `code`\n[a](page.md#a-page-of-code) [b](#nowhere) [c](missing.md) [d](https://x.org/y)\n"
    )
    assert broken_links(page) == ["#nowhere", "missing.md"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page):
    assert not broken_links(page)


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\((docs/\w+\.md)", prose(ROOT / "README.md")))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} == linked


WITH_EXAMPLES = {page.name: page for page in PAGES if blocks(page, "python")}


@pytest.mark.parametrize("name", quick(WITH_EXAMPLES))
def test_every_python_example_runs(name, tmp_path, monkeypatch):
    """What is copied from a page must work as it stands."""
    page = WITH_EXAMPLES[name]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(page, "python"):
        code = compile(block, str(page), "exec")
        if block.startswith(NOT_RUN):
            continue
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(code, namespace)
        assert "print(" not in block or shown.getvalue().strip()


@functools.cache
def definitions(file: str) -> set[str]:
    """Dotted names that a file defines at its top and in its classes."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        found.update(names)
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_and_function_that_a_page_names_exists(page):
    """A reader who follows a walk through the code must find each stop."""
    text = page.read_text(encoding="utf-8")
    stops = re.findall(r"\b((?:launch|configs|rapid_jax|models|tests)/[\w/]+\.py):([A-Za-z_][\w.]*\w)", text)
    lost = [f"{file}:{name}" for file, name in stops if not (ROOT / file).is_file() or name not in definitions(file)]
    assert not lost
    paths = re.findall(r"`((?:launch|configs|rapid_jax|models|tests|reports|assets|docs)/[\w./-]*)[`:]", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    if page.name == "architecture.md":
        assert len(stops) > 50


@functools.cache
def flags() -> set[str]:
    """Names of the flags of all launchers."""
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "launch").glob("*.py")]
    return {name for text in sources for name in re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)}


def unknown_flags(text: str) -> list[str]:
    """Flags and config fields of launchers' commands in a text that do not exist."""
    from rapid_jax.config import EngineConfig

    wrong = []
    for name in re.findall(r"(?<![\w-])--([a-z]\w*(?:\.\w+)*)", text):
        if name.startswith("config."):
            fields = EngineConfig().to_dict()
            for part in name.split(".")[1:]:
                fields = fields.get(part) if isinstance(fields, dict) else None
                if fields is None:
                    break
            known = fields is not None or name in ("config.retrieval.threshold", "config.retrieval.max_chunks")
        else:
            known = name in flags() or name in ("help", "flagfile")  # absl has them
        if not known:
            wrong.append(name)
    return wrong


def commands(page: Path) -> list[str]:
    """The launchers' commands of a page: of its blocks, and of its `code` in running text."""
    joined = [block.replace("\\\n", " ") for block in blocks(page) if "python -m launch." in block]
    lines = [line for block in joined for line in block.splitlines() if "python -m launch." in line]
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    inline = [span for span in spans if span.startswith(("--", "python -m launch.", "launch."))]
    return [line.partition("python -m launch.")[2] or line for line in lines + inline]


CLUSTERS = ROOT / "docs" / "clusters.md"


def started_by_a_shell(script: str, directory: Path, **variables: str) -> list[str]:
    """The arguments with which a script starts `python`, for which a stand-in is in the path."""
    (directory / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (directory / ".venv" / "bin" / "activate").touch()
    python = directory / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-eu", "-c", script]
    done = subprocess.run(
        command, cwd=directory, env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def started_by_ray(script: str, monkeypatch) -> list[list[str]]:
    """The commands that a script runs, the tasks of a stand-in for Ray among them."""
    started = []

    def run(command, **_):
        started.append(command[1:])
        return SimpleNamespace(returncode=0)

    ray = SimpleNamespace(
        init=lambda address: None, get=list, remote=lambda **_: lambda task: SimpleNamespace(remote=task)
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(subprocess, "run", run)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(script, str(CLUSTERS), "exec"), {})
    return started


def test_the_examples_of_clusters_start_every_shard_with_the_same_flags(tmp_path, monkeypatch):
    """A quote, an index or a number that is wrong in one of them would be found after hours in a queue."""
    (slurm,), (manifest,), (ray,) = (blocks(CLUSTERS, language) for language in ("bash", "yaml", "python"))
    spec = yaml.safe_load(manifest)["spec"]
    assert spec["completionMode"] == "Indexed" and spec["template"]["spec"]["restartPolicy"] == "Never"
    (container,) = spec["template"]["spec"]["containers"]
    (array,) = re.findall(r"^#SBATCH --array=0-(\d+)$", slurm, re.MULTILINE)
    assert int(array) + 1 == spec["completions"] == spec["parallelism"]
    found = {
        "slurm": [
            started_by_a_shell(slurm, tmp_path, SLURM_ARRAY_TASK_ID=str(index)) for index in range(spec["completions"])
        ],
        "kubernetes": [
            started_by_a_shell(container["args"][0], tmp_path, JOB_COMPLETION_INDEX=str(index))
            for index in range(spec["completions"])
        ],
        "ray": started_by_ray(ray, monkeypatch),
    }
    report = found["ray"].pop()
    assert report[:2] == ["-m", "launch.report"] and len(set(report)) == 8 + 3
    for name, started in found.items():
        assert [command[:2] for command in started] == [["-m", "launch.evaluate"]] * 8, name
        assert [command[2] for command in started] == [f"--shard={index}/8" for index in range(8)], name
        assert all(command[3].endswith(f"out/shard-{index}") for index, command in enumerate(started)), name
        assert not unknown_flags(" ".join(started[0])), name
        rest = {tuple(flag for flag in command[4:] if flag != "--config.mesh=1,1,4") for command in started}
        assert len(rest) == 1 and rest == {tuple(found["slurm"][0][4:])}, name


def test_an_unknown_flag_is_found():
    assert unknown_flags(
        "generate --methods=lc --gama=3 --config.speculation.gama=3 --config.retrieval.threshold=1"
    ) == [
        "gama",
        "config.speculation.gama",
    ]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_flag_of_a_command_exists(page):
    """A command that is copied from a page must not end in "unknown flag"."""
    found = commands(page)
    launchers = {match for line in found for match in re.findall(r"^(?:launch\.)?([a-z_]+)(?= |$)", line)}
    assert not {name for name in launchers if not (ROOT / "launch" / f"{name}.py").is_file()}
    assert not [name for line in found for name in unknown_flags(line)]


def test_the_readme_is_a_page():
    """The README is what a stranger reads first; what is longer belongs to docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert len(blocks(ROOT / "README.md", "bash")) == 2


def shape(printed: str) -> list[str]:
    """What launch.generate prints, without answers and figures: labels before the first answer, headings, rows."""
    lines = [line for line in printed.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if line.startswith("──"))
    headings = [line for line in lines[: start - 1] if re.fullmatch(r"[\w+]+:", line)]
    labels = [line.split()[0] for line in lines[: lines.index(headings[0])]]
    end = next(i for i, line in enumerate(lines) if line.startswith("Timings"))
    rows = [re.sub(r"[\d.,]+", "#", re.split(r" {2,}", line.strip())[0]) for line in lines[start + 1 : end]]
    notes = [re.sub(r"[\d.,]+", "#", line) for line in lines[end:]]
    return [*labels, *headings, *lines[start - 1].split(), *rows, *notes]


@pytest.mark.slow
def test_the_readme_shows_what_its_first_command_prints(tmp_path):
    """Same labels, methods, rows and notes; a short run of the same command prints the same shape."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output of launch.generate -->\n```\n(.*?)```\n<!-- end of output -->", readme, re.DOTALL)
    assert shown
    (line,) = [line for line in blocks(ROOT / "README.md", "bash")[0].splitlines() if "launch.generate" in line]
    command = [sys.executable, *line.split()[1:], "--config.max_context_tokens=300", "--max_new_tokens=30"]
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("=8", "=1")}
    environment = {**os.environ, **quick, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--compilation_cache_dir="], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert shape(done.stdout) == shape(shown[1])
