"""The table of methods: what differs between them, and nothing else."""

import pytest

from rapid_jax.methods import METHODS, get_method


def test_the_four_methods():
    """Comparisons are fair only if a method differs from the next in the column that it should."""
    columns = {name: (m.reads_document, m.drafts, m.transfers, m.retrieves) for name, m in METHODS.items()}
    assert columns == {
        "lc": (True, False, False, False),
        "rag": (False, False, False, True),
        "sd": (True, True, False, True),
        "rapid": (True, True, True, True),
    }


def test_names_and_help_lines():
    """--help prints each summary on a line."""
    for name, method in METHODS.items():
        assert get_method(name) is method and method.name == name
        assert method.summary and "\n" not in method.summary


def test_an_unknown_method_is_refused_with_the_known_ones():
    """A typing error names what there is."""
    with pytest.raises(ValueError, match="unknown method 'rapids'; known: lc, rag, sd, rapid"):
        get_method("rapids")
