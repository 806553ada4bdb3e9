"""What `pip install` gives: a package that runs from any directory, with the embedded files and all that it imports."""

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rapid_jax.config import embedded

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "launch", "models", "rapid_jax")
OPTIONAL = {"torch", "libtpu", "llama-cpp"}  # used where they are installed; each has an extra of its own


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel; made from a copy, so that nothing is left in the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in (*PACKAGES, "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={work}"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """A function that runs Python with the unpacked wheel in a directory with nothing of the checkout."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_the_wheel_holds_the_embedded_files_and_every_module(wheel):
    """Without them the first command of the README ends in an error for whoever does not work in a checkout."""
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {file.relative_to(ROOT) for file in (ROOT / "assets").rglob("*") if file.is_file()}
    assert len(files) > 25
    assert {f"rapid_jax/{file.as_posix()}" for file in files} <= names
    for package in PACKAGES:
        modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / package).rglob("*.py")}
        assert modules and modules <= names
    assert {"models/py.typed", "rapid_jax/py.typed"} <= names
    assert {"rapid_jax/tracing/page.html", "rapid_jax/serving/page.html"} <= names
    assert not any(name.startswith("tests/") for name in names)


@pytest.mark.slow
def test_an_installed_launcher_finds_the_embedded_tokenizer_from_another_directory(run_installed):
    done = run_installed("-m", "launch.make_archive", "--tokens=600", "--output=a")
    assert done.returncode == 0, done.stderr
    assert "a/document.txt: " in done.stdout


@pytest.mark.slow
def test_assets_and_configs_name_installed_files_from_another_directory(run_installed):
    """A flag of the documentation means the same for a checkout and for an installation."""
    code = (
        "from rapid_jax.config import embedded; print(embedded.ASSETS, embedded.checkpoint('assets/archivist-large'))"
    )
    assets, large = run_installed("-c", code).stdout.split()
    assert Path(assets).parts[-2:] == ("rapid_jax", "assets") and ROOT not in Path(assets).parents
    assert large == f"{assets}/archivist-large"
    done = run_installed("-m", "launch.generate", "--config=configs/llama31_8b.py", "--target=/nowhere")
    assert "error: /nowhere is not a directory" in done.stderr
    done = run_installed("-m", "launch.generate", "--config", "configs/llama4.py")
    assert "--config=configs/llama4.py: no such file; there are configs/archivist.py, " in done.stderr


def test_a_local_file_wins_over_the_embedded_one_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert embedded.located("assets/archivist-large") == str(embedded.ASSETS / "archivist-large")
    assert embedded.located("assets/archive/document.txt") == str(embedded.DOCUMENT)
    (tmp_path / "assets" / "archivist-large").mkdir(parents=True)
    assert embedded.located("assets/archivist-large") == "assets/archivist-large"
    assert embedded.checkpoint("assets/archivist-large") == "assets/archivist-large"


@pytest.mark.parametrize(
    "name", ["", ".", "/", "Qwen/Qwen3-8B", "assets/../setup.py", "other/assets/archivist", "assets/x"]
)
def test_other_names_are_left_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert embedded.located(name) == name


def test_no_name_is_the_embedded_model_and_a_misspelt_one_is_refused_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert embedded.checkpoint("") == str(embedded.MODEL)
    assert embedded.checkpoint("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    with pytest.raises(FileNotFoundError, match="assets/archivist-big: .* assets/archivist, assets/archivist-large, "):
        embedded.checkpoint("assets/archivist-big")


def normal(distribution: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def listed(text: str) -> set[str]:
    """Distributions that the lines of a requirements file or of an extra name."""
    lines = (line.strip() for line in text.splitlines())
    return {normal(re.split(r"[\[<>=!~ ;]", line)[0]) for line in lines if line and not line.startswith("#")}


def imports(file: Path, *, whole: bool) -> set[str]:
    """First names of what a file imports: anywhere, or only what importing the file itself needs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - set(PACKAGES) - set(sys.stdlib_module_names)


def of_room(file: Path, extras) -> set[str]:
    """Distributions of the extra that a whole room needs."""
    return listed(extras["serve"]) if file.is_relative_to(ROOT / "rapid_jax" / "serving") else set()


@pytest.mark.parametrize("whole", [False, True], ids=["when imported", "anywhere"])
def test_everything_that_is_imported_is_a_requirement(whole):
    """A package that another one happens to bring along is missing as soon as the other one drops it."""
    required = listed((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    if whole:
        required |= OPTIONAL.union(*(listed(extras[extra]) for extra in ("reports", "parquet", "documents", "chat")))
    owners = importlib.metadata.packages_distributions()
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    unlisted = {
        f"{file.relative_to(ROOT)}: {module}"
        for file in files
        for module in imports(file, whole=whole)
        if not (required | of_room(file, extras)) & {normal(owner) for owner in owners.get(module, [module])}
    }
    assert not unlisted
