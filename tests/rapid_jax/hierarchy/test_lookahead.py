"""The lookahead window: who sees whom, where its tokens stand, and the n-grams that it yields."""

import jax.numpy as jnp
import numpy as np

from rapid_jax.hierarchy.lookahead import completed, extra_tokens, lookahead_layout, seed_grid


def test_the_published_size():
    """Level 5 and window 7: 27 rows ride on the verification of the last token."""
    offsets, sees = lookahead_layout(4, 7)
    assert offsets.shape == (27,) and sees.shape == (27, 28)


def test_tokens_stand_behind_what_they_see():
    """Every token sees one token at each position before its own, from the last committed one on, and no other."""
    levels, columns = 3, 4
    offsets, sees = lookahead_layout(levels, columns)
    positions = np.concatenate([[0], offsets])
    for row in range(len(sees)):
        own = positions[row + 1]
        assert sorted(positions[np.flatnonzero(sees[row])]) == list(range(own + 1))


def test_a_column_sees_the_oldest_guesses_before_it_and_its_own_newer_ones():
    """Level 1 of column 2: level 0 of columns 0-2, and itself."""
    _, sees = lookahead_layout(3, 4)
    assert np.flatnonzero(sees[4 + 2 - 1]).tolist() == [0, 1, 2, 6]


def test_every_column_completes_an_ngram_and_the_levels_move_down():
    """The corner of the grid is the committed token, whatever stood there."""
    grid = jnp.array([[[9, 2, 3], [4, 5, 6]]])
    grams, following = completed(grid, jnp.array([1]), jnp.array([[7, 8, 0]]))
    assert grams[0].tolist() == [[1, 4, 7], [2, 5, 8], [3, 6, 0]]
    assert following[0].tolist() == [[4, 5, 6], [7, 8, 0]]
    assert extra_tokens(grid).tolist() == [[2, 3, 4, 5, 6]]


def test_columns_start_with_runs_of_the_prompt():
    """The first steps already continue real text."""
    prompt = list(range(10, 30))
    grid = seed_grid(prompt, levels=4, columns=7, rng=np.random.default_rng(0))
    assert grid.shape == (4, 7) and (np.diff(grid, axis=0) == 1).all() and grid.min() >= 10 and grid.max() < 30
    assert set(seed_grid([3, 5], levels=4, columns=2, rng=np.random.default_rng(0)).ravel().tolist()) == {3, 5}
