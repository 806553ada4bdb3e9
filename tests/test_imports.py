"""Imports go down only: launch -> configs, rapid_jax, models; rapid_jax -> models; models -> nothing of ours.

Inside rapid_jax a room imports only rooms that stand before it in the order that CONTRIBUTING.md states.
"""

import ast
import re
import subprocess
import sys
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


def room_order() -> list[str]:
    """The rooms of rapid_jax in the order of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (config(?: < \w+)+)$", text, flags=re.MULTILINE)
    return line.split(" < ")


def arrows_against_the_order(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module of rapid_jax from rooms that do not stand before its own."""
    order = room_order()
    own = (module.split(".") + [""])[1]
    forbidden = []
    for name in sorted(imported_modules(source, module, is_package)):
        other = (name.split(".") + [""])[1]
        if not name.startswith("rapid_jax.") or other not in order or other == own:
            continue
        if order.index(other) > order.index(own):
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


INSIDE = [(name, file) for name, file in modules() if name.startswith("rapid_jax.")]


def test_every_room_has_a_place_in_the_order():
    """A new folder that the order does not name would escape the rule."""
    assert {name.split(".")[1] for name, _ in INSIDE} == set(room_order())


@pytest.mark.parametrize("module, file", INSIDE, ids=[name for name, _ in INSIDE])
def test_no_import_runs_against_the_order_of_the_rooms(module, file):
    """Rooms that import each other in a circle can only be understood, tested and changed together."""
    assert not arrows_against_the_order(file.read_text(encoding="utf-8"), module, file.name == "__init__.py")


@pytest.mark.parametrize(
    "module, source",
    [
        ("rapid_jax.decoding.step", "from rapid_jax.drafting import NullDrafter"),
        ("rapid_jax.config.engine", "def f():\n    from rapid_jax.engine import engine"),
        ("rapid_jax.engine.session", "from rapid_jax import planning\nimport rapid_jax.planning.cost"),
        ("rapid_jax.hierarchy.setup", "from ..drafting.makers import maker_of"),
    ],
)
def test_an_arrow_against_the_order_is_found(module, source):
    assert arrows_against_the_order(source, module)


def test_the_engine_does_not_load_what_it_does_not_need():
    """Planner, benchmarks, evaluation and training are for those who call them; an HLO parser answers no question."""
    code = "import sys; from rapid_jax import Engine; print(*[name for name in sys.modules if name.startswith('rapid_jax.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    order = room_order()
    assert loaded <= set(order[: order.index("engine") + 1]), loaded


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
