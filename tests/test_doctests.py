"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for room in ("models", "rapid_jax")
    for file in sorted((ROOT / room).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


def test_there_are_examples():
    """A renamed room would pass by holding none."""
    assert {"rapid_jax.speculation", "rapid_jax.tracing.quotes"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
