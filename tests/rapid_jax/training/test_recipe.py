"""The recipes: the committed models must be what they say."""

import pytest

import models
from rapid_jax.config import embedded
from rapid_jax.training.recipe import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_the_committed_model_is_of_its_recipe(name):
    assert models.load(embedded.ASSETS / name).config == RECIPES[name].model


@pytest.mark.parametrize("name", RECIPES)
def test_the_family_shares_a_tokenizer(name):
    """A drafter's ids must mean to the target what they mean to the drafter."""
    ours, default = (embedded.ASSETS / model / "tokenizer.model" for model in (name, "archivist"))
    assert ours.read_bytes() == default.read_bytes()


def test_rows_lengthen_and_only_the_target_learns_long_ones():
    lengths = {name: [phase.tokens for phase in recipe.training.phases] for name, recipe in RECIPES.items()}
    assert all(tokens == sorted(tokens) for tokens in lengths.values())
    assert max(lengths["archivist"]) > max(lengths["archivist-large"])
