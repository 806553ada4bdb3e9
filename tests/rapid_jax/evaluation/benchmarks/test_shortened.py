"""Shorter answers than a benchmark allows: at every turn, under another fingerprint, and never longer ones."""

import dataclasses

import pytest

from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.shortened import Shortened

ITEMS = tuple(Item(str(n), "fact", "Who?", "Who?", "Somebody", n) for n in (8, 1024))


@dataclasses.dataclass
class Whole:
    """Two items, of 8 and 1,024 tokens, with a second turn of 512."""

    name = "whole"
    template = "{document}{question}"
    metrics = ("score",)
    sampling = {"temperature": 0.5}  # noqa: RUF012
    fingerprint: str = "abc"

    def sources(self):
        yield Source("document-1", "A text.", ITEMS)

    def follow_up(self, item, answers):
        return FollowUp(({"role": "user", "content": "And?"},), 512) if len(answers) < 2 else None

    def score(self, item, answers):
        return {"score": 1.0}


def test_every_turn_is_cut_and_a_smaller_limit_stays():
    """Another turn of 1,024 tokens would take what the first one saved."""
    short = Shortened(Whole(), 96)
    (source,) = short.sources()
    assert [item.max_new_tokens for item in source.items] == [8, 96]
    assert (source.id, source.text, source.items[1].question) == ("document-1", "A text.", "Who?")
    assert short.follow_up(ITEMS[0], ["x"]).max_new_tokens == 96
    assert short.follow_up(ITEMS[0], ["x", "y"]) is None
    assert Shortened(Whole(), 600).follow_up(ITEMS[0], ["x"]).max_new_tokens == 512
    assert (short.name, short.metrics, short.sampling) == ("whole", ("score",), {"temperature": 0.5})
    assert short.score(ITEMS[0], ["x"]) == {"score": 1.0}


def test_answers_of_different_lengths_are_never_mixed():
    prints = {Shortened(Whole(), 96).fingerprint, Shortened(Whole(), 97).fingerprint, "abc"}
    assert len(prints | {Shortened(Whole("other data"), 96).fingerprint}) == 4


def test_an_answer_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Shortened(Whole(), 0)
