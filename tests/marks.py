"""Marks for the parameters of a test: a few run always, the others with `-m slow`."""

from collections.abc import Iterable

import pytest


def slow(*values, **kwargs):
    """One set of parameters that only `-m slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **kwargs)


def quick(names: Iterable[str], *kept: str) -> list:
    """Names as parameters, of which only `kept` run always; a name in `kept` that is not there is an error."""
    names = list(names)
    assert set(kept) <= set(names), kept
    return [name if name in kept else slow(name) for name in names]
