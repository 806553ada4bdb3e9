"""Imports go down only: launch -> configs, rapid_jax, models; rapid_jax -> models; models -> nothing of ours."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("launch", "configs", "rapid_jax", "models", "tests")
MAY_ENTER = {  # module prefixes of other rooms that a room may import
    "launch": ("configs", "rapid_jax", "models"),
    "configs": ("rapid_jax.config",),
    "rapid_jax": ("models",),
    "models": (),
}


def imported_modules(source: str, module: str, is_package: bool) -> set[str]:
    """Absolute dotted names of everything that a module imports anywhere in its body, `from a import b` as a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names.update(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    return names


def arrows_up(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module that the rules forbid, as 'module -> imported'."""
    room = module.split(".")[0]
    forbidden = []
    for name in sorted(imported_modules(source, module, is_package)):
        other = name.split(".")[0]
        if other == room or other not in ROOMS:
            continue
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_ENTER[room]):
            forbidden.append(f"{module} -> {name}")
    return forbidden


def modules() -> list[tuple[str, Path]]:
    found = []
    for room in MAY_ENTER:
        for file in sorted((ROOT / room).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return found


def test_every_room_is_walked():
    """A renamed folder would pass every rule by holding nothing."""
    names = {name for name, _ in modules()}
    assert {
        "launch.generate",
        "configs.archivist",
        "rapid_jax.engine.engine",
        "models.decoder",
        "models.attention.api",
    } <= names


@pytest.mark.parametrize("module, file", modules(), ids=[name for name, _ in modules()])
def test_no_import_points_up(module, file):
    """A model that knows of speculation, or a method that knows of flags, could not be used without them."""
    assert not arrows_up(file.read_text(encoding="utf-8"), module, file.name == "__init__.py")


@pytest.mark.parametrize(
    "module, source",
    [
        ("models.decoder", "import rapid_jax"),
        ("models.decoder", "from rapid_jax.decoding import step"),
        ("models.decoder", "def f():\n    from rapid_jax import engine"),
        ("models.decoder", "import importlib\nimportlib.import_module('rapid_jax.engine.engine')"),
        ("rapid_jax.engine.engine", "from launch import cli"),
        ("rapid_jax.engine.engine", "import configs.archivist as c"),
        ("rapid_jax.engine.engine", "from tests import conftest"),
        ("configs.archivist", "from rapid_jax.engine.engine import Engine"),
        ("configs.archivist", "from rapid_jax import engine"),
        ("configs.archivist", "import models"),
        ("launch.generate", "import tests.conftest"),
    ],
)
def test_an_arrow_that_points_up_is_found(module, source):
    """The rule itself must be able to fail."""
    assert arrows_up(source, module)


@pytest.mark.parametrize(
    "module, source",
    [
        ("models.decoder", "import jax\nfrom models import rope\nfrom . import cache"),
        ("rapid_jax.engine.engine", "import models\nfrom models.cache import ContextCache\nfrom .run import Run"),
        ("configs.archivist", "from configs import base\nfrom rapid_jax.config import EngineConfig"),
        ("launch.generate", "from configs import archivist\nfrom rapid_jax.config import embedded\nimport models"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    """A false alarm would make people switch the rule off."""
    assert not arrows_up(source, module)
