"""Warping against independent references (and Hugging Face's warpers), and the draw of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rapid_jax.decoding.sampling import Warping, sample, sample_distinct, warp_logits


@pytest.fixture(autouse=True)
def _strict_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kept_tokens(row, top_k, top_p):
    """The documented rule, token by token in float64, on one row."""
    row = np.asarray(row, np.float64)
    kept = set(range(len(row)))
    if 0 < top_k < len(row):
        kth = sorted(row, reverse=True)[top_k - 1]
        kept = {x for x in kept if row[x] >= kth}
    if top_p < 1:
        probs = softmax(np.where([x in kept for x in range(len(row))], row, -np.inf))
        chosen, mass = set(), 0.0
        for x in sorted(kept, key=lambda x: (-row[x], x)):
            if mass >= top_p:
                break
            chosen.add(x)
            mass += probs[x]
        kept = chosen
    return kept


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 1000])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_kept_tokens_follow_the_documented_rule(temperature, top_k, top_p):
    """A different nucleus would make target and published baselines sample differently."""
    logits = np.random.default_rng(0).normal(0, 2, (3, 4, 50)).astype(np.float32)
    warped = np.asarray(warp_logits(logits, Warping.of(temperature=temperature, top_k=top_k, top_p=top_p)))
    for row in np.ndindex(logits.shape[:-1]):
        kept = np.isfinite(warped[row])
        assert set(np.flatnonzero(kept)) == kept_tokens(logits[row] / temperature, top_k, top_p)
        np.testing.assert_allclose(warped[row][kept], logits[row][kept] / temperature, rtol=1e-6)
        assert (warped[row][~kept] == -np.inf).all()


@pytest.mark.parity
@pytest.mark.parametrize(
    "temperature, top_k, top_p", [(0.7, 0, 1.0), (1.0, 7, 1.0), (1.0, 0, 0.8), (0.6, 20, 0.9), (1.3, 3, 0.2)]
)
def test_parity_with_hugging_face_warpers(temperature, top_k, top_p):
    """Settings copied from a generation_config.json must mean the same here."""
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(1).normal(0, 3, (8, 500)).astype(np.float32)
    chain = [warpers.TemperatureLogitsWarper(temperature)]
    chain += [warpers.TopKLogitsWarper(top_k)] if top_k else []
    chain += [warpers.TopPLogitsWarper(top_p)] if top_p < 1 else []
    expected = torch.tensor(logits)
    for warper in chain:
        expected = warper(None, expected)
    warped = warp_logits(logits, Warping.of(temperature=temperature, top_k=top_k, top_p=top_p))
    np.testing.assert_allclose(warped, expected.numpy(), rtol=1e-6)


def test_ties_at_the_k_th_are_all_kept():
    """bfloat16 logits tie often; which tokens survive must not depend on the order of a sort."""
    warped = warp_logits(np.float32([[1.0, 2.0, 2.0, 3.0, 2.0]]), Warping.of(temperature=1.0, top_k=2))
    np.testing.assert_array_equal(np.isfinite(warped), [[False, True, True, True, True]])


def test_nucleus_of_ties_is_smallest_and_takes_low_ids_first():
    """Equal logits: top_p = 0.5 keeps half of the tokens, not all; -0.0 is 0.0."""
    warped = warp_logits(np.float32([[-0.0, 0.0] * 4]), Warping.of(temperature=1.0, top_p=0.5))
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(warped[0])), np.arange(4))


def test_nucleus_of_a_large_vocabulary():
    """128,256 logits of any sign and size: rounding may move the edge of the nucleus by a sliver of mass, no more."""
    logits = np.random.default_rng(4).normal(-3, 4, (2, 128_256)).astype(np.float32)
    logits[1] *= 1e-3
    for top_p in (0.1, 0.9, 0.999):
        kept = np.isfinite(warp_logits(logits, Warping.of(temperature=1.0, top_p=top_p)))
        for row, members in zip(logits.astype(np.float64), kept, strict=True):
            probs = softmax(row)
            assert row[members].min() >= row[~members].max()
            assert top_p - 1e-5 <= probs[members].sum() <= top_p + probs[members].min() + 1e-5


def test_top_p_is_applied_to_what_top_k_left():
    """Order matters: top-k first changes the mass that top-p sees."""
    logits = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
    assert np.isfinite(warp_logits(logits, Warping.of(temperature=1.0, top_p=0.6))).sum() == 2
    assert np.isfinite(warp_logits(logits, Warping.of(temperature=1.0, top_k=2, top_p=0.55))).sum() == 1


def test_greedy_keeps_the_logits_of_temperature_one():
    """At T = 0 the mixing of the verification needs the plain softmax of target and drafter."""
    logits = np.random.default_rng(2).normal(0, 2, (3, 20)).astype(np.float32)
    np.testing.assert_array_equal(warp_logits(logits, Warping.of(temperature=0, top_k=3, top_p=0.1)), logits)


def test_low_precision_logits_are_warped_in_float32():
    """A bfloat16 softmax has 3 digits; acceptance ratios need float32."""
    assert warp_logits(jnp.zeros((1, 4), jnp.bfloat16), Warping.of(temperature=0.5, top_p=0.9)).dtype == jnp.float32


def test_masked_input_stays_masked():
    """Suppressed tokens must not come back through top-k or top-p."""
    logits = np.float32([[1.0, -np.inf, 0.0, -np.inf]])
    for settings_ in ({"top_k": 3}, {"top_p": 0.999999}, {"top_k": 3, "top_p": 0.9}):
        warped = np.asarray(warp_logits(logits, Warping.of(temperature=0.8, **settings_)))
        assert not np.isnan(warped).any() and np.isinf(warped[0, [1, 3]]).all() and np.isfinite(warped[0, 0])


@settings(max_examples=60, deadline=None)
@given(
    logits=hnp.arrays(np.float32, (2, 9), elements=st.floats(-80, 80, width=32)),
    temperature=st.sampled_from([0, 0.1, 1.0, 3.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(1e-6, 1.0),
)
def test_always_samples_from_a_distribution_that_has_the_argmax(logits, temperature, top_k, top_p):
    """No setting may mask everything or lose the best token."""
    logits = logits.round(2)  # below float32's smallest number a division by T makes new ties
    warped = np.asarray(warp_logits(logits, Warping.of(temperature=temperature, top_k=top_k, top_p=top_p)))
    assert not np.isnan(warped).any()
    assert np.isfinite(warped[[0, 1], logits.argmax(-1)]).all()
    np.testing.assert_allclose(np.asarray(jax.nn.softmax(jnp.asarray(warped))).sum(-1), 1, atol=1e-5)


def test_sample_follows_the_softmax_and_never_a_masked_token():
    """200,000 draws from a warped row."""
    rows = 200_000
    warped = warp_logits(np.log(np.float32([0.4, 0.3, 0.2, 0.1])), Warping.of(temperature=1.0, top_k=3))
    tokens = sample(jax.random.key(0), jnp.broadcast_to(warped, (rows, 4)))
    assert tokens.dtype == jnp.int32
    frequencies = np.bincount(tokens, minlength=4) / rows
    assert frequencies[3] == 0
    np.testing.assert_allclose(frequencies[:3], [4 / 9, 3 / 9, 2 / 9], atol=0.006)


def test_a_row_draws_from_its_own_key_alone():
    """A row's draft must be the same alone and in a batch."""
    logits = np.random.default_rng(3).normal(0, 1, (16, 30)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 16)
    tokens = sample(keys, logits)
    np.testing.assert_array_equal(tokens[5:9], sample(keys[5:9], logits[5:9]))
    np.testing.assert_array_equal(tokens, jax.jit(sample)(keys, logits))
    np.testing.assert_array_equal(sample(keys[0], logits)[:4], sample(keys[0], logits[:4]))


def test_greedy_sample_is_the_argmax_whatever_the_key():
    """Greedy output must not depend on a seed; a tie goes to the lower id."""
    for seed in range(3):
        tokens = sample(jax.random.key(seed), np.float32([[0, 2, 2], [3, 1, 0]]), greedy=True)
        np.testing.assert_array_equal(tokens, [1, 0])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"top_p": float("nan")}, "top_p must be in"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message):
    """A wrong setting must stop, also at temperature 0, where it would have no effect."""
    with pytest.raises(ValueError, match=message) as error:
        warp_logits(np.zeros((1, 4), np.float32), Warping.of(**({"temperature": 0} | change)))
    assert "\n" not in str(error.value)


def test_wrong_number_of_keys_is_refused():
    """Keys of another batch must not be reused silently."""
    with pytest.raises(ValueError, match="one per row"):
        sample(jax.random.split(jax.random.key(0), 3), np.zeros((4, 5), np.float32))


def test_distinct_tokens_are_draws_without_replacement():
    """The acceptance of a second candidate divides by q without the first: that must be its law. 5 standard errors."""
    q, rows = np.array([0.45, 0.25, 0.15, 0.1, 0.05]), 200_000
    logits = jnp.broadcast_to(jnp.log(jnp.float32(q)), (rows, 5))
    tokens, possible = jax.jit(sample_distinct, static_argnums=2)(jax.random.key(0), logits, 3)
    np.testing.assert_array_equal(tokens[:, 0], sample(jax.random.key(0), logits))
    assert (np.asarray(possible) == 3).all()
    counts = np.zeros((5, 5, 5))
    np.add.at(counts, tuple(np.asarray(tokens).T), 1)
    for (a, b, c), count in np.ndenumerate(counts):
        distinct = len({a, b, c}) == 3
        mass = q[a] * q[b] / (1 - q[a]) * q[c] / (1 - q[a] - q[b]) if distinct else 0.0
        assert abs(count / rows - mass) <= 5 * np.sqrt(mass * (1 - mass) / rows)


@pytest.mark.parametrize("greedy", [False, True])
def test_tokens_without_probability_come_last_and_are_not_counted(greedy):
    """Masked tokens, and those whose probability float32 rounds to 0, can be no candidates."""
    logits = np.float32([[0, -np.inf, 1, -np.inf, -1], [0, -200, -201, -np.inf, -202], [1, 2, 3, 4, 5]])
    tokens, possible = sample_distinct(jax.random.key(1), logits, 4, greedy=greedy)
    assert possible.tolist() == [3, 1, 4] and tokens.dtype == possible.dtype == jnp.int32
    for row, count, allowed in zip(np.asarray(tokens), possible.tolist(), ({0, 2, 4}, {0}, set(range(5))), strict=True):
        assert len(set(row.tolist())) == 4 and set(row[:count].tolist()) <= allowed
    if greedy:
        assert tokens[0, :3].tolist() == [2, 0, 4] and tokens[2].tolist() == [4, 3, 2, 1]
        tied = sample_distinct(jax.random.key(1), np.float32([[2, 3, 3, 2]]), 3, greedy=True)[0]
        assert tied[0].tolist() == [1, 2, 0]
