"""Several candidates for one position: exact enumeration of what is emitted, then draws against the enumerated law."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rapid_jax.decoding.sampling import sample_distinct
from rapid_jax.verification import retrieval_augmented_target
from rapid_jax.verification.multi_candidate import after_rejection, verify_alternatives

verify = jax.jit(verify_alternatives)

# A first residual of two tokens that q knows, so that second and third candidates are accepted or not.
Q, P_HAT = np.float32([0.5, 0.2, 0.15, 0.1, 0.05]), np.float32([0.1, 0.15, 0.25, 0.3, 0.2])


@pytest.fixture(autouse=True)
def _strict_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def total_variation(a, b):
    return 0.5 * np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum(-1)


def emitted_law(q, p_hat, k, step=after_rejection):
    """The law of the emitted token: every order of candidates, tested with the float32 tables that `step` makes.

    Candidates are drawn in float64, independently of the tables. A node of the enumeration is a sequence of rejected
    candidates; all nodes of one length are followed to all of their children at once. The last residual does not depend
    on the token that was rejected last.
    """
    step = jax.jit(jax.vmap(step))
    out = np.zeros(len(q))
    weights, left, tables = np.ones(1), np.float64(q)[None], (np.float32([p_hat]), np.float32([q]))
    for place in range(k):
        p, table = (np.asarray(x, np.float64) for x in tables)
        mass = left.sum(-1, keepdims=True)
        none = mass[:, 0] == 0  # every possible candidate is rejected
        out += (weights[none, None] * p[none]).sum(0)
        drawn = weights[:, None] * np.divide(left, mass, out=np.zeros_like(left), where=mass > 0)
        accept = np.minimum(1, np.divide(p, table, out=(p > 0).astype(float), where=table > 0))
        out += (drawn * accept).sum(0)
        rejected = drawn * (1 - accept)
        if place < k - 1:
            node, token = np.nonzero(rejected)
            weights, left = rejected[node, token], left[node]
            left[np.arange(len(node)), token] = 0
        else:
            node, token = np.arange(len(left)), rejected.argmax(-1)
            weights = rejected.sum(-1)
        tables = step(*(np.asarray(x)[node] for x in tables), token.astype(np.int32))
    return out + (weights[:, None] * np.asarray(tables[0], np.float64)).sum(0)


def random_pair(seed, vocab, support=None, sharpness=0.5):
    """(q, p_hat) float32 [V]: Dirichlet, q on `support` tokens at most, a fifth of p_hat's tokens impossible."""
    rng = np.random.default_rng(seed)
    q, p_hat = rng.dirichlet(np.full(vocab, sharpness), 2)
    if support is not None:
        q[rng.permutation(vocab)[support:]] = 0
    p_hat[rng.permutation(vocab)[: vocab // 5]] = 0
    return tuple(np.float32(x / x.sum()) for x in (q, p_hat))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("vocab", [5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_emitted_token_is_distributed_as_p_hat(vocab, k, seed):
    """Several candidates promise the law of one: anything else changes what the model says."""
    q, p_hat = random_pair(seed, vocab)
    assert total_variation(emitted_law(q, p_hat, k), p_hat) < 1e-6


@pytest.mark.parametrize("k, support", [(2, 1000), (3, 30), (4, 12)])
@pytest.mark.parametrize("sharpness", [0.05, 1.0])
def test_the_emitted_token_is_distributed_as_p_hat_over_a_large_vocabulary(k, support, sharpness):
    """1,000 tokens: float32 sums must not blur the law. A top-k of q keeps the orders few enough to count."""
    q, p_hat = random_pair(7, 1000, support, sharpness)
    assert total_variation(emitted_law(q, p_hat, k), p_hat) < 1e-6


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("eta", [0.0, 5.0, 20.0])
def test_the_emitted_token_has_the_law_of_the_retrieval_augmented_target(eta, k):
    """The p_hat of the step, whose tail rule leaves tokens on either side of q."""
    rng = np.random.default_rng(3)
    q = np.asarray(jax.nn.softmax(jnp.float32(rng.normal(0, 2, 8))))
    p, p_hat = retrieval_augmented_target(rng.normal(0, 2, 8).astype(np.float32), q, eta=eta)
    law = emitted_law(q, p_hat, k)
    assert total_variation(law, p_hat) < 1e-6
    assert (total_variation(law, p) < 1e-6) == (eta == 0)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    "q, p_hat",
    [
        ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]),
        ([1.0, 0.0, 0.0], [0.0, 0.6, 0.4]),
        ([0.7, 0.3, 0.0], [0.0, 0.0, 1.0]),
        ([0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]),
        ([1 - 2e-7, 1e-7, 1e-7], [0.2, 0.5, 0.3]),
    ],
)
def test_edges_keep_the_law(q, p_hat, k):
    """Equal laws, disjoint supports, fewer tokens than candidates, and what is left of a q that is nearly certain."""
    assert total_variation(emitted_law(np.float32(q), np.float32(p_hat), k), np.float32(p_hat)) < 1e-6


def test_the_enumeration_tells_the_rule_from_its_neighbours():
    """Without removal, without renormalisation or with P itself in the residual's place the law is another."""

    def with_replacement(p, q, token):
        return after_rejection(p, q, token)[0], q

    def without_renormalisation(p, q, token):
        return after_rejection(p, q, token)[0], q.at[token].set(0.0)

    def without_residual(p, q, token):
        return p, after_rejection(p, q, token)[1]

    for wrong in (with_replacement, without_renormalisation, without_residual):
        assert total_variation(emitted_law(Q, P_HAT, 3, wrong), P_HAT) > 0.01


def joint_law(q, p_hat, k):
    """{(place of the accepted candidate, or k for none; emitted token): probability}, in float64, from the definition."""
    law = {}

    def follow(weight, place, p, q):
        if place == k or not q.any():
            for y in np.flatnonzero(p):
                law[k, y] = law.get((k, y), 0) + weight * p[y]
            return
        residual = np.maximum(p - q, 0)
        for x in np.flatnonzero(q):
            accept = min(1, p[x] / q[x])
            law[place, x] = law.get((place, x), 0) + weight * q[x] * accept
            if accept < 1:
                rest = np.where(np.arange(len(q)) == x, 0, q)
                rest = rest / rest.sum() if rest.any() else rest
                follow(weight * q[x] * (1 - accept), place + 1, residual / residual.sum(), rest)

    follow(1.0, 0, np.float64(p_hat), np.float64(q))
    return law


def draw(seed, q, p_hat, k, rows):
    """(candidates [rows,k], how many are possible, place of the accepted one or k, emitted token) of equal rows."""
    keys = [jax.random.split(key, rows) for key in jax.random.split(jax.random.key(seed), 3)]
    tables = [jnp.broadcast_to(jnp.float32(x), (rows, len(x))) for x in (q, p_hat)]
    candidates, possible = sample_distinct(keys[0], jnp.log(tables[0]), k)
    first = np.asarray(candidates[:, 0])
    u = np.asarray(jax.random.uniform(keys[1][0], (rows,)))
    chosen, law = verify(keys[2], candidates[:, 0], candidates[:, 1:], possible - 1, *tables)
    chosen, candidates = np.asarray(chosen), np.asarray(candidates)
    place = np.where(u * q[first] < p_hat[first], 0, np.where(chosen >= 0, chosen + 1, k))
    drawn = np.asarray(jax.random.categorical(jax.random.key(seed + 1), jnp.log(law)))
    emitted = np.where(place < k, candidates[np.arange(rows), np.minimum(place, k - 1)], drawn)
    return candidates, np.asarray(possible), place, emitted


@pytest.mark.parametrize("k", [2, 3])
def test_draws_follow_the_joint_law(k):
    """Which candidate is accepted and which token is emitted, 200,000 rows, within 5 standard errors."""
    law, rows = joint_law(Q, P_HAT, k), 200_000
    assert sum(law.values()) == pytest.approx(1)
    assert all(sum(m for (place, _), m in law.items() if place == j) > 0.005 for j in range(k + 1))
    _, _, place, emitted = draw(0, Q, P_HAT, k, rows)
    counts = np.zeros((k + 1, 5))
    np.add.at(counts, (place, emitted), 1)
    for event in itertools.product(range(k + 1), range(5)):
        mass = law.get(event, 0.0)
        assert abs(counts[event] / rows - mass) <= 5 * np.sqrt(mass * (1 - mass) / rows) + 1e-9, event
    assert total_variation(np.bincount(emitted, minlength=5) / rows, P_HAT) < 0.006


def test_impossible_and_missing_candidates_are_never_accepted():
    """q allows two tokens and p_hat two: the rest of four candidates is padding, which p_hat may well like."""
    q, p_hat = np.float32([0.6, 0.4, 0.0, 0.0, 0.0]), np.float32([0.0, 0.5, 0.0, 0.5, 0.0])
    candidates, possible, place, emitted = draw(3, q, p_hat, 4, 20_000)
    assert (possible == 2).all() and (np.sort(candidates[:, :2]) == [0, 1]).all()
    assert all(len(set(row)) == 4 for row in candidates.tolist())
    assert set(np.unique(place)) == {0, 1, 4} and set(np.unique(emitted)) == {1, 3}
    assert total_variation(np.bincount(emitted, minlength=5) / 20_000, p_hat) < 0.015


def test_only_proposed_alternatives_are_tried():
    """`count` ends a row's alternatives; what lies beyond may be any id."""
    rows, q, p_hat = 4000, np.float32([0.4, 0.3, 0.2, 0.1]), np.float32([0.1, 0.2, 0.3, 0.4])
    tables = [jnp.broadcast_to(x, (rows, 4)) for x in (q, p_hat)]
    count = np.arange(rows, dtype=np.int32) % 3
    alternatives = np.tile(np.int32([2, 3]), (rows, 1))
    alternatives[np.arange(2)[None] >= count[:, None]] = -1
    keys = jax.random.split(jax.random.key(0), rows)
    chosen, law = verify(keys, np.zeros(rows, np.int32), alternatives, count, *tables)
    assert (np.asarray(chosen) < count).all()
    residual = np.maximum(p_hat - q, 0) / np.maximum(p_hat - q, 0).sum()
    np.testing.assert_allclose(np.asarray(law)[count == 0], np.tile(residual, ((count == 0).sum(), 1)), atol=1e-6)
    alternatives = np.tile(np.int32([2, 3]), (rows, 1))
    whole, _ = verify(keys, np.zeros(rows, np.int32), alternatives, np.full(rows, 2, np.int32), *tables)
    np.testing.assert_array_equal(np.asarray(chosen)[count == 2], np.asarray(whole)[count == 2])
    assert set(np.unique(whole)) <= {0, 1} | {-1} and (np.asarray(whole) >= 0).any()


def test_greedy_accepts_exactly_the_best_token_of_the_target():
    """Temperature 0: candidates are q's best tokens, and whatever the key the output is p_hat's argmax."""
    rng = np.random.default_rng(0)
    q = np.float32(rng.dirichlet(np.full(6, 0.7), 64))
    best = np.arange(64) % 6
    p_hat = np.eye(6, dtype=np.float32)[best]
    candidates, possible = sample_distinct(jax.random.key(0), jnp.log(q), 4, greedy=True)
    order = np.argsort(-q, axis=-1, kind="stable")
    np.testing.assert_array_equal(candidates, order[:, :4])
    rejected = order[:, 0] != best  # the others go on with their chain
    for seed in range(3):
        chosen, law = verify(jax.random.key(seed), candidates[:, 0], candidates[:, 1:], possible - 1, q, p_hat)
        place = np.argmax(order == best[:, None], axis=1) - 1
        np.testing.assert_array_equal(chosen[rejected], np.where(place < 3, place, -1)[rejected])
        missed = rejected & (place >= 3)
        assert missed.any() and (place[rejected] < 3).any()
        np.testing.assert_array_equal(law[missed], p_hat[missed])


def test_rows_have_noise_of_their_own_and_no_neighbours():
    """A batch of the same question must not accept alternatives in step, nor change with its neighbours."""
    rows = 64
    tables = [jnp.broadcast_to(x, (rows, 5)) for x in (Q, P_HAT)]
    candidates, possible = sample_distinct(jax.random.key(1), jnp.log(tables[0]), 3)
    arguments = [candidates[:, 0], candidates[:, 1:], possible - 1, *tables]
    keys = jax.random.split(jax.random.key(0), rows)
    together = verify(keys, *arguments)
    order = np.random.default_rng(0).permutation(rows)
    moved = verify(keys[order], *(x[order] for x in arguments))
    for a, b in zip(together, moved, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)
    same = [jnp.broadcast_to(x[:1], x.shape) for x in arguments]
    assert len(np.unique(verify(jax.random.key(0), *same)[0])) > 1
    with pytest.raises(ValueError, match="one per row"):
        verify_alternatives(keys[:3], *arguments)


weights = hnp.arrays(np.float32, (2, 6), elements=st.one_of(st.just(0.0), st.floats(2**-20, 1, width=32)))


@settings(max_examples=60, deadline=None)
@given(pair=weights, tokens=st.permutations(range(6)))
def test_tables_stay_distributions(pair, tokens):
    """Zeros and lopsided tables must give no NaN, and no mass where p_hat has none."""
    pair[:, 0] += pair.sum(-1) == 0
    q, p_hat = pair / pair.sum(-1, keepdims=True)
    p, rest = jnp.float32(p_hat), jnp.float32(q)
    for token in tokens[:4]:
        p, rest = after_rejection(p, rest, jnp.int32(token))
        assert (np.asarray(p) >= 0).all() and float(p.sum()) == pytest.approx(1, abs=1e-5)
        assert not np.asarray(p)[p_hat == 0].any()
        assert float(rest.sum()) == pytest.approx(1, abs=1e-5) or not np.asarray(rest).any()
        assert float(rest[token]) == 0
