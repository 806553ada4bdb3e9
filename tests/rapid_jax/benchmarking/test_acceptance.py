"""Forced acceptance: the rate that a benchmark prints must be the rate at which drafts pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.benchmarking.acceptance import ForcedAcceptance
from rapid_jax.verification import residual_distribution

ROWS, GAMMA, VOCAB = 20_000, 4, 5


@pytest.fixture(scope="module")
def distributions():
    """q, p and p_hat of one row: [gamma,V], [gamma+1,V], [gamma,V]."""
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.dirichlet(np.ones(VOCAB), n), jnp.float32) for n in (GAMMA, GAMMA + 1, GAMMA))


def verify(rate, distributions, residual="rapid"):
    """(accepted, next token) of ROWS equal rows with keys of their own; the drafted token is one that p forbids."""
    q, p, p_hat = (jnp.broadcast_to(x, (ROWS, *x.shape)) for x in distributions)
    tokens = jnp.zeros((ROWS, GAMMA), jnp.int32)
    keys = jax.random.split(jax.random.key(3), ROWS)
    return tuple(map(np.asarray, jax.jit(ForcedAcceptance(rate), static_argnames="residual")(
        keys, tokens, q, p, p_hat, residual=residual)))  # fmt: skip


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_accepted_tokens_are_geometric(distributions, rate):
    """P(count = n) is rate^n (1 - rate), and rate^gamma for the whole draft; five standard errors are allowed."""
    count, _ = verify(rate, distributions)
    expected = [rate**n * (1 - rate) for n in range(GAMMA)] + [rate**GAMMA]
    found = np.bincount(count, minlength=GAMMA + 1) / ROWS
    assert np.abs(found - expected).max() < 5 * 0.5 / ROWS**0.5
    assert (1 + count).mean() == pytest.approx((1 - rate ** (GAMMA + 1)) / (1 - rate), abs=0.06)


@pytest.mark.parametrize("rate, accepted", [(0.0, 0), (1.0, GAMMA)])
def test_the_ends_are_exact(distributions, rate, accepted):
    """Rate 1 must never reject and rate 0 never accept, whatever the models' probabilities."""
    count, _ = verify(rate, distributions)
    assert (count == accepted).all()


@pytest.mark.parametrize("residual", ["rapid", "exact"])
def test_the_next_token_has_the_law_of_the_real_step(distributions, residual):
    """The residual after a rejection, p after a whole draft: the work that a real step would do."""
    q, p, p_hat = distributions
    _, rejected = verify(0.0, distributions, residual)
    law = residual_distribution(q[0], p[0], p_hat[0], residual=residual)
    assert np.abs(np.bincount(rejected, minlength=VOCAB) / ROWS - law).max() < 0.02
    _, bonus = verify(1.0, distributions, residual)
    assert np.abs(np.bincount(bonus, minlength=VOCAB) / ROWS - p[GAMMA]).max() < 0.02


def test_it_can_be_part_of_a_compiled_program():
    """StepSpec is a key of compiled programs: equal rates must be one program, others another."""
    assert hash(ForcedAcceptance(0.5)) == hash(ForcedAcceptance(0.5)) and ForcedAcceptance(0.5) == ForcedAcceptance(0.5)
    assert ForcedAcceptance(0.5) != ForcedAcceptance(0.6)
