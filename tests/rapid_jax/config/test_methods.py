"""The table of methods: what differs between them, and nothing else."""

import dataclasses

import pytest

from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.config.methods import METHODS, OWN_CACHE, OWN_PAGES, OWN_SETTINGS, get_method
from rapid_jax.config.speculation import SpeculationConfig


def test_the_methods():
    """Comparisons are fair only if a method differs from the next in the column that it should."""
    columns = {
        n: (m.reads_document, m.drafts_from_passages, m.transfers, m.looks_up, m.retrieves) for n, m in METHODS.items()
    }
    assert [name for name, method in METHODS.items() if method.drafting_model == OWN_CACHE] == ["magicdec"]
    assert [name for name, method in METHODS.items() if method.drafting_model == OWN_PAGES] == ["pages", "auto"]
    assert [name for name, method in METHODS.items() if method.copies] == ["copy", "auto"]
    alone, on_the_drafter = (True, False, False, True, False), (True, True, True, True, True)
    assert columns == {
        "lc": (True, False, False, False, False),
        "rag": (False, False, False, False, True),
        "sd": (True, True, False, False, True),
        "rapid": (True, True, True, False, True),
        **dict.fromkeys(("magicdec", "pages", "planes", "copy", "auto"), (True, False, False, False, False)),
        **dict.fromkeys(("hd", "pld", "lookahead", "rest"), alone),
        "rapid+hd": on_the_drafter,
        "sd+hd": (True, True, False, True, True),
    }


def test_single_databases_are_configurations_of_one_drafter():
    """A table of prompt lookup, Lookahead, REST and HD compares databases, not implementations."""
    config = HierarchyConfig(candidates=3, length=6, window=5)
    found = {name: METHODS[name].hierarchy(config) for name in ("hd", "pld", "lookahead", "rest", "rapid+hd")}
    assert found["hd"] == config
    assert {name: c.databases for name, c in found.items() if name not in ("hd", "rapid+hd")} == {
        "pld": ("history",),
        "lookahead": ("context",),
        "rest": ("statistics",),
    }
    assert (found["pld"].candidates, found["pld"].length, found["pld"].match) == (1, 10, 3)
    assert found["lookahead"].window == 5 and found["rest"].window == found["rapid+hd"].window == 0
    assert found["rapid+hd"].databases == config.databases


def test_names_and_help_lines():
    """--help prints each summary on a line."""
    for name, method in METHODS.items():
        assert get_method(name) is method and method.name == name
        assert method.summary and "\n" not in method.summary


def test_an_unknown_method_is_refused_with_the_known_ones():
    """A typing error names what there is."""
    with pytest.raises(
        ValueError, match="unknown method 'rapids'; known: lc, rag, sd, rapid, magicdec, pages, planes, copy, auto, hd"
    ):
        get_method("rapids")


def test_own_settings_are_fields_that_one_kind_of_draft_has_alone():
    """An answer's record leaves out what did not matter for it."""
    names = [name for names in OWN_SETTINGS.values() for name in names]
    assert len(set(names)) == len(names) and set(names) <= {f.name for f in dataclasses.fields(SpeculationConfig)}
    assert METHODS["pages"].own_settings == ("page_size", "page_budget", "page_renewal")
    assert METHODS["magicdec"].own_settings == ("sinks", "window") and METHODS["rapid"].own_settings == ()
