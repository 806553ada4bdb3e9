"""Sweeps: which settings concern which method, and what a misspelt one says."""

import pytest

from rapid_jax.config.methods import METHODS
from rapid_jax.evaluation.variation import Variation, parse_sweep


def test_a_sweep_is_a_grid():
    """Two settings must be combined, not walked side by side."""
    found = parse_sweep(["eta=0,5", "unrelated=true,false", "drafter=,path/to/large"])
    assert len(found) == 8 and len(set(found)) == 8
    assert found[0].to_dict() == {"eta": 0.0, "drafter": "", "unrelated": True}
    assert parse_sweep([]) == [Variation()]


def test_each_method_heeds_what_concerns_it():
    """Plain decoding asked once for every eta would cost hours and change nothing."""
    (variation,) = parse_sweep(["eta=5", "gamma=4", "retrieval_tokens=512", "temperature=1", "tail=augmented"])
    heeded = {name: set(variation.heeded_by(method).to_dict()) for name, method in METHODS.items()}
    assert heeded["lc"] == {"temperature"}
    assert heeded["rag"] == {"temperature", "retrieval_tokens"}
    assert heeded["sd"] == {"temperature", "retrieval_tokens", "gamma"}
    assert heeded["rapid"] == {"temperature", "retrieval_tokens", "gamma", "eta", "tail"}
    assert heeded["magicdec"] == {"temperature", "gamma"}


def test_a_window_and_pages_concern_the_drafts_over_them_alone():
    """And magicdec's drafter is the target, whatever other drafters a sweep compares."""
    (variation,) = parse_sweep(["window=512", "sinks=2", "page_budget=64", "drafter=path/to/large"])
    heeded = {name: set(variation.heeded_by(METHODS[name]).to_dict()) for name in ("lc", "sd", "magicdec", "pages")}
    assert heeded == {"lc": set(), "sd": {"drafter"}, "magicdec": {"window", "sinks"}, "pages": {"page_budget"}}


def test_overrides_are_fields_of_the_configs():
    """What is no field would be refused by the engine in the middle of a run."""
    (variation,) = parse_sweep(["eta=5", "retrieval_tokens=512", "unrelated=false", "drafter=x", "top_k=3"])
    assert variation.overrides() == {"eta": 5.0, "top_k": 3}
    assert str(variation).startswith("eta=5, ") and "unrelated=false" in str(variation)


@pytest.mark.parametrize(
    "texts, message",
    [
        (["beta=1"], "with a name of eta"),
        (["eta"], "NAME=VALUE"),
        (["eta=1", "eta=2"], "swept twice"),
        (["eta=many"], "eta must be a number"),
        (["eta=-1"], "eta must be a number of at least 0"),
        (["gamma=0"], "gamma must be at least 1"),
        (["window=8"], "window must be more tokens than a draft's 10, got 8"),
        (["gamma=1.5"], "gamma must be a number"),
        (["tail=short"], "tail must be one of teacher, augmented"),
        (["unrelated=yes"], "unrelated must be true or false"),
        (["retrieval_tokens=0"], "retrieval_tokens must be at least 1"),
        (["temperature=-1"], "temperature must be 0"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_is_loaded(texts, message):
    """A sweep that fails in its third hour has wasted three."""
    with pytest.raises(ValueError, match=message):
        parse_sweep(texts)
