"""The retrieval-augmented target against an independent float64 reference and worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rapid_jax.verification import TAIL_RULES, retrieval_augmented_target, target_distribution

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.7, 0.1])


@pytest.fixture(autouse=True)
def _strict_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(z, q, eta, temperature=1.0, tail="teacher", alpha=0.1):
    """One row in float64, written token by token from the published rules; returns p and p_hat."""
    z, q = np.asarray(z, np.float64) / temperature, np.asarray(q, np.float64)
    p = softmax(z)
    if tail == "teacher":
        mixed = [z[x] + eta * (q[x] - p[x]) if q[x] >= alpha * q.max() else z[x] for x in range(len(z))]
        return p, softmax(np.array(mixed))
    raw = softmax(z + eta * (q - p))
    restored = np.array([p[x] if raw[x] < alpha * raw.max() else raw[x] for x in range(len(z))])
    return p, restored / restored.sum()


def random_case(seed, vocab=12):
    rng = np.random.default_rng(seed)
    z, q = rng.normal(0, 2, (4, 3, vocab)), rng.dirichlet(np.full(vocab, 0.3), (4, 3))
    return z.astype(np.float32), q.astype(np.float32)


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("eta", [0.0, 1.0, 5.0, 10.0, 20.0])
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0])
def test_both_tails_follow_the_published_rules(tail, eta, temperature):
    """A wrong rule would repeat neither the official code nor Eq. 9."""
    z, q = random_case(0)
    p, p_hat = retrieval_augmented_target(z, q, eta=eta, temperature=temperature, tail=tail)
    assert p.dtype == p_hat.dtype == jnp.float32
    for row in np.ndindex(z.shape[:-1]):
        want_p, want_p_hat = reference(z[row], q[row], eta, temperature, tail)
        np.testing.assert_allclose(p[row], want_p, atol=2e-6)
        np.testing.assert_allclose(p_hat[row], want_p_hat, atol=1e-5)


def test_worked_example():
    """The example that the documentation prints must come out of the code."""
    _, p_hat = retrieval_augmented_target(np.log(P), Q, eta=5)
    np.testing.assert_allclose(p_hat, [0.0455, 0.9049, 0.0495], atol=1e-4)


def test_augmented_tail_is_renormalised():
    """Eq. 9 as printed sums to 1.60 here; used as probabilities it would bias every draw."""
    raw = softmax(np.log(P) + 5 * (Q - P))
    restored = np.where(raw < 0.1 * raw.max(), P, raw)
    assert restored.sum() == pytest.approx(1.60, abs=0.01)
    _, p_hat = retrieval_augmented_target(np.log(P), Q, eta=5, tail="augmented")
    np.testing.assert_allclose(p_hat, restored / restored.sum(), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_token_at_the_threshold_itself_is_not_in_the_tail(alpha):
    """Both published rules say "below": with alpha = 1 the likeliest token would lose its transfer as well."""
    z, q = np.log(np.float32([0.25, 0.25, 0.5])), np.float32([0.5, 0.25, 0.25])
    for tail in TAIL_RULES:
        _, p_hat = retrieval_augmented_target(z, q, eta=2.0, tail=tail, alpha=alpha)
        np.testing.assert_allclose(p_hat, reference(z, q, 2.0, tail=tail, alpha=alpha)[1], atol=1e-6)
    _, p_hat = retrieval_augmented_target(z, q, eta=8.0, tail="augmented", alpha=1.0)
    raw = softmax(np.float64(z) + 8 * (q - softmax(np.float64(z))))
    likeliest = raw.argmax()
    restored = np.where(np.arange(3) == likeliest, raw, softmax(np.float64(z)))
    np.testing.assert_allclose(p_hat, restored / restored.sum(), atol=1e-6)


def test_the_two_tails_differ():
    """If the tail option did nothing, two published variants could not be told apart."""
    teacher, augmented = (retrieval_augmented_target(np.log(P), Q, eta=5, tail=tail)[1] for tail in TAIL_RULES)
    assert np.abs(teacher - augmented).max() > 0.1


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("temperature", [0, 0.3, 1.0])
@pytest.mark.parametrize("array", [False, True])
def test_eta_zero_is_the_target_bit_for_bit(tail, temperature, array):
    """Any difference would make naive speculative decoding lossy."""
    z, q = random_case(1, vocab=257)
    mix = jax.jit(retrieval_augmented_target, static_argnames=("temperature", "tail", "alpha"))
    eta = jnp.float32(0) if array else 0.0
    for function in (retrieval_augmented_target, mix):
        p, p_hat = function(z, q, eta=eta, temperature=temperature, tail=tail)
        np.testing.assert_array_equal(p, p_hat)


def test_eta_may_be_traced():
    """A sweep over eta must not recompile."""
    z, q = random_case(2)
    mix = jax.jit(lambda eta: retrieval_augmented_target(z, q, eta=eta)[1])
    for eta in (0.0, 3.0, 40.0):
        np.testing.assert_allclose(mix(eta), retrieval_augmented_target(z, q, eta=eta)[1], atol=1e-6)
    assert mix._cache_size() == 1


def test_vmap_over_rows_is_the_batched_call():
    """Leading axes are batch axes only."""
    z, q = random_case(3)
    batched = retrieval_augmented_target(z, q, eta=4.0, tail="augmented")
    mapped = jax.vmap(lambda z, q: retrieval_augmented_target(z, q, eta=4.0, tail="augmented"))(z, q)
    for one, other in zip(batched, mapped, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_masked_tokens_stay_impossible(tail, temperature):
    """Top-k of the target must hold even where the drafter insists on a token outside of it."""
    z = np.array([1.0, -np.inf, 0.5, -np.inf], np.float32)
    for q in ([0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]):
        for eta in (0.0, 20.0):
            p, p_hat = retrieval_augmented_target(z, np.float32(q), eta=eta, temperature=temperature, tail=tail)
            for x in (p, p_hat):
                assert np.isfinite(x).all() and x.sum() == pytest.approx(1, abs=1e-6)
                np.testing.assert_array_equal(x[np.isinf(z)], 0)


def test_temperature_divides_before_mixing():
    """eta acts on z / T: warped logits at temperature 1 and raw logits with T are the same call."""
    z, q = random_case(4)
    direct = retrieval_augmented_target(z, q, eta=5.0, temperature=0.5)[1]
    warped = retrieval_augmented_target(z / np.float32(0.5), q, eta=5.0)[1]
    np.testing.assert_allclose(direct, warped, atol=1e-6)


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("eta", [0.0, 2.0, 10.0, 30.0])
def test_greedy_point_masses(tail, eta):
    """Greedy decoding takes the argmax under the tail rule, with p and q of temperature 1."""
    z, q = random_case(5)
    p, p_hat = retrieval_augmented_target(z, q, eta=eta, temperature=0, tail=tail)
    for row in np.ndindex(z.shape[:-1]):
        _, sampled = reference(z[row], q[row], eta, 1.0, tail)
        np.testing.assert_array_equal(p[row], np.eye(z.shape[-1])[z[row].argmax()])
        np.testing.assert_array_equal(p_hat[row], np.eye(z.shape[-1])[sampled.argmax()])


def test_greedy_augmented_tail_can_win_the_argmax():
    """A token pushed into the tail gets p back and may lead again: the argmax comes after the rule."""
    p = np.array([0.7, 0.1, 0.1, 0.1])
    q = np.array([0.0, 0.34, 0.33, 0.33])
    _, p_hat = retrieval_augmented_target(np.log(p), q, eta=10, temperature=0, tail="augmented")
    assert np.argmax(np.log(p) + 10 * (q - p)) == 1
    assert int(p_hat.argmax()) == 0


@pytest.mark.parametrize("tail", TAIL_RULES)
def test_greedy_near_ties_of_the_target_are_kept(tail):
    """Two logits one rounding step apart must not merge on the way to the argmax when eta is 0."""
    z = np.full((1, 1000), 19.0, np.float32)
    z[0, 700] = np.float32(20)
    z[0, 300] = np.nextafter(np.float32(20), np.float32(0))
    q = np.full((1, 1000), 1e-3, np.float32)
    _, p_hat = retrieval_augmented_target(z, q, eta=jnp.float32(0), temperature=0, tail=tail)
    assert int(p_hat.argmax()) == 700


def test_target_distribution_is_the_first_result():
    """The bonus token must come from the same p as the verified positions."""
    z, q = random_case(6)
    for temperature in (0, 0.4, 1.0):
        p, _ = retrieval_augmented_target(z, q, eta=3.0, temperature=temperature)
        np.testing.assert_array_equal(p, target_distribution(z, temperature=temperature))


@settings(max_examples=60, deadline=None)
@given(
    z=hnp.arrays(np.float32, (2, 7), elements=st.floats(-60, 60, width=32)),
    weights=hnp.arrays(np.float32, (2, 7), elements=st.floats(0, 1, width=32)),
    masked=hnp.arrays(np.bool_, (2, 6)),
    eta=st.floats(0, 100),
    temperature=st.sampled_from([0, 0.1, 1.0]),
    tail=st.sampled_from(TAIL_RULES),
    alpha=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_always_a_distribution(z, weights, masked, eta, temperature, tail, alpha):
    """Neither extreme logits nor masks nor drafts may give NaN or negative mass."""
    z[:, :6][masked] = -np.inf
    q = (weights + 1e-6) / (weights + 1e-6).sum(-1, keepdims=True)
    for x in retrieval_augmented_target(z, q, eta=eta, temperature=temperature, tail=tail, alpha=alpha):
        assert (np.asarray(x) >= 0).all()
        np.testing.assert_allclose(x.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(x)[np.isinf(z)], 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tail": "student"}, "tail must be one of teacher, augmented"),
        ({"eta": -1.0}, "eta must be a finite number of at least 0"),
        ({"eta": float("nan")}, "eta must be a finite number"),
        ({"eta": float("inf")}, "eta must be a finite number"),
        ({"eta": np.ones(3)}, "eta must be a scalar"),
        ({"temperature": -0.5}, "temperature must be 0"),
        ({"temperature": 1e-30}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"alpha": -0.1}, "alpha must be in"),
        ({"draft_probs": np.ones(4) / 4}, "one shape"),
        ({"draft_probs": np.ones((1, 3)) / 3}, "one shape"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(change, message):
    """A wrong setting must stop before it becomes a wrong distribution."""
    arguments = {"target_logits": np.log(P), "draft_probs": Q, "eta": 5.0} | change
    with pytest.raises(ValueError, match=message) as error:
        retrieval_augmented_target(**arguments)
    assert "\n" not in str(error.value)
