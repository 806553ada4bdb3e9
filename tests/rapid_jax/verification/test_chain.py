"""The acceptance rules against exact enumeration in float64, then the drawn tokens against the enumerated laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rapid_jax.verification import (
    RESIDUALS,
    TAIL_RULES,
    output_distribution,
    residual_distribution,
    retrieval_augmented_target,
    target_distribution,
    total_variation_rapid,
    verify_chain,
)

verify = jax.jit(verify_chain, static_argnames="residual")

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.7, 0.1])


@pytest.fixture(autouse=True)
def _strict_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def enumerate_position(q, p, p_hat, residual):
    """The law of one position in float64: every draft, its acceptance, every replacement."""
    q, p, p_hat = (np.asarray(x, np.float64) for x in (q, p, p_hat))
    vocab = range(len(q))
    if residual == "exact":
        weights = [max(p_hat[y] - q[y], 0) for y in vocab]
    else:
        weights = [max(p[y] - p_hat[y], p[y] - q[y], 0) for y in vocab]
    out = np.zeros(len(q))
    for x in vocab:
        if q[x] == 0:
            continue
        accept = min(1, p_hat[x] / q[x])
        out[x] += q[x] * accept
        if accept < 1:
            out += q[x] * (1 - accept) * np.array(weights) / sum(weights)
    return out


def total_variation(a, b):
    return 0.5 * np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum(-1)


def random_case(seed, vocab=8, rows=20):
    rng = np.random.default_rng(seed)
    z, q = rng.normal(0, 2, (rows, vocab)), rng.dirichlet(np.full(vocab, 0.5), rows)
    return z.astype(np.float32), q.astype(np.float32)


def chain_case(seed, gamma=2, vocab=3, eta=4.0):
    """Per-position tables of one row: q [gamma, V], p [gamma + 1, V], p_hat [gamma, V]."""
    z, q = random_case(seed, vocab, gamma + 1)
    p, p_hat = retrieval_augmented_target(z, q, eta=eta)
    return q[:-1], np.asarray(p), np.asarray(p_hat)[:-1]


def batch(x, rows):
    return np.broadcast_to(x, (rows, *np.shape(x)))


def draw_drafts(key, q, rows):
    """Independent drafts [rows, gamma] from q [gamma, V]."""
    logits = jnp.log(jnp.broadcast_to(jnp.asarray(q, jnp.float32), (rows, *q.shape)))
    return jax.random.categorical(key, logits).astype(jnp.int32)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("copied", [False, True])
def test_eta_zero_is_lossless(copied, residual, tail):
    """Naive speculative decoding must write the target's own distribution, from copies that are sure of a token too."""
    z, q = random_case(0)
    if copied:
        q = np.eye(q.shape[1], dtype=np.float32)[np.arange(len(q)) % q.shape[1]]
    p, p_hat = retrieval_augmented_target(z, q, eta=0, tail=tail)
    assert total_variation(output_distribution(q, p, p_hat, residual=residual), p).max() < 1e-6
    for row in range(len(z)):
        assert total_variation(enumerate_position(q[row], p[row], p_hat[row], residual), p[row]) < 1e-6
    rapid, exact = (residual_distribution(q, p, p_hat, residual=name) for name in RESIDUALS)
    np.testing.assert_allclose(rapid, exact, atol=1e-6)
    np.testing.assert_array_equal(total_variation_rapid(q, p, p_hat), 0)


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("eta", [1.0, 5.0, 20.0])
def test_exact_residual_gives_p_hat(eta, tail):
    """residual="exact" promises the retrieval-augmented target itself."""
    z, q = random_case(1)
    p, p_hat = retrieval_augmented_target(z, q, eta=eta, tail=tail)
    assert total_variation(output_distribution(q, p, p_hat, residual="exact"), p_hat).max() < 1e-6
    for row in range(len(z)):
        assert total_variation(enumerate_position(q[row], p[row], p_hat[row], "exact"), p_hat[row]) < 1e-6


@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("eta", [1.0, 5.0, 20.0])
def test_rapid_residual_is_its_closed_form(eta, tail):
    """The distance from the target that the documentation states must be the real one, and is not 0."""
    z, q = random_case(2)
    p, p_hat = retrieval_augmented_target(z, q, eta=eta, tail=tail)
    out, distance = output_distribution(q, p, p_hat, residual="rapid"), total_variation_rapid(q, p, p_hat)
    for row in range(len(z)):
        enumerated = enumerate_position(q[row], p[row], p_hat[row], "rapid")
        assert total_variation(out[row], enumerated) < 1e-6
        assert float(distance[row]) == pytest.approx(total_variation(enumerated, p[row]), abs=1e-6)
    assert float(distance.max()) > 0.05


@pytest.mark.parametrize(
    "eta, expected",
    [(5, (0.1995, 0.7000, 0.1005)), (10, (0.2127, 0.7000, 0.0873)), (20, (0.2143, 0.7000, 0.0857))],
)
def test_worked_example(eta, expected):
    """eta > 0 is not lossless: the numbers that the documentation shows."""
    p, p_hat = retrieval_augmented_target(np.log(P), Q, eta=eta, tail="teacher")
    np.testing.assert_allclose(output_distribution(Q, p, p_hat), expected, atol=1e-4)
    np.testing.assert_allclose(enumerate_position(Q, P, p_hat, "rapid"), expected, atol=1e-4)
    assert float(total_variation_rapid(Q, p, p_hat)) == pytest.approx(0.400, abs=1e-3)


def chain_law(q, p, p_hat, residual):
    """Joint law of (num_accepted, committed tokens) in float64, by walking every draft."""
    gamma, vocab = q.shape
    law = {}
    for draft in itertools.product(range(vocab), repeat=gamma):
        alive = np.prod([q[i, x] for i, x in enumerate(draft)])
        for i, x in enumerate(draft):
            accept = min(1.0, p_hat[i, x] / q[i, x])
            source, floor = (p_hat[i], q[i]) if residual == "exact" else (p[i], np.minimum(q[i], p_hat[i]))
            weights = np.maximum(source - floor, 0)
            for y in range(vocab):
                if accept < 1:
                    event = (i, *draft[:i], y)
                    law[event] = law.get(event, 0) + alive * (1 - accept) * weights[y] / weights.sum()
            alive *= accept
        for y in range(vocab):
            event = (gamma, *draft, y)
            law[event] = law.get(event, 0) + alive * p[gamma, y]
    return law


@pytest.mark.parametrize("per_row_keys", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_drawn_chains_follow_the_joint_law(residual, per_row_keys):
    """gamma = 2, V = 3, 200,000 rows: accepted tokens and next token jointly, within 5 standard errors."""
    q, p, p_hat = (np.asarray(x, np.float64) for x in chain_case(seed=7))
    rows = 200_000
    draft_key, key = jax.random.split(jax.random.key(3))
    drafts = draw_drafts(draft_key, q, rows)
    keys = jax.random.split(key, rows) if per_row_keys else key
    tables = (jnp.asarray(batch(x, rows), jnp.float32) for x in (q, p, p_hat))
    accepted, token = verify(keys, drafts, *tables, residual=residual)
    accepted, token, drafts = map(np.asarray, (accepted, token, drafts))
    law = chain_law(q, p, p_hat, residual)
    assert sum(law.values()) == pytest.approx(1)
    counts = {}
    for n, x, t in zip(accepted.tolist(), drafts.tolist(), token.tolist(), strict=True):
        counts[(n, *x[:n], t)] = counts.get((n, *x[:n], t), 0) + 1
    assert set(counts) <= {event for event, mass in law.items() if mass > 0}
    for event, mass in law.items():
        error = np.sqrt(mass * (1 - mass) / rows)
        assert abs(counts.get(event, 0) / rows - mass) <= 5 * error + 1e-9, event
    first = np.bincount(np.where(accepted > 0, drafts[:, 0], token), minlength=3) / rows
    assert total_variation(first, output_distribution(q[0], p[0], p_hat[0], residual=residual)) < 0.006


@pytest.mark.parametrize("residual", RESIDUALS)
def test_eta_zero_prefixes_have_the_targets_law(residual):
    """The first emitted token follows p[0] and, where the first draft was accepted, the second p[1]."""
    q, p, p_hat = (np.asarray(x, np.float64) for x in chain_case(seed=8, eta=0.0))
    law = chain_law(q, p, p_hat, residual)
    first, second = np.zeros(3), np.zeros(3)
    for (n, *tokens), mass in law.items():
        first[tokens[0]] += mass
        if n > 0:
            second[tokens[1]] += mass
    np.testing.assert_allclose(first, p[0], atol=1e-6)
    np.testing.assert_allclose(second / second.sum(), p[1], atol=1e-6)


def test_drafts_of_the_target_itself_are_accepted():
    """With drafter = target every draft must pass and the bonus be drawn from the last p."""
    p = np.asarray(chain_case(seed=9, gamma=3)[1])
    rows = 20_000
    drafts = draw_drafts(jax.random.key(0), p[:-1], rows)
    tables = (batch(x, rows) for x in (p[:-1], p, p[:-1]))
    accepted, token = verify(jax.random.key(1), drafts, *tables)
    assert (accepted == 3).all()
    assert total_variation(np.bincount(token, minlength=3) / rows, p[3]) < 0.02


@pytest.mark.parametrize("residual", RESIDUALS)
def test_impossible_tokens_are_never_emitted(residual):
    """Tokens outside the target's top-k must not appear, not even in one draw of 50,000."""
    z = np.array([[0.0, -np.inf, 1.0, -np.inf, -2.0]] * 3, np.float32)
    q = np.array([[0.1, 0.4, 0.1, 0.4, 0.0]] * 3, np.float32)
    p, p_hat = retrieval_augmented_target(z, q, eta=10)
    rows = 50_000
    drafts = draw_drafts(jax.random.key(0), q[:2], rows)
    tables = (batch(x, rows) for x in (q[:2], p, p_hat[:2]))
    accepted, token = verify(jax.random.key(1), drafts, *tables, residual=residual)
    assert set(np.unique(token)) <= {0, 2, 4}
    for i in range(2):
        assert set(np.unique(drafts[accepted > i, i])) <= {0, 2}


@pytest.mark.parametrize("residual", RESIDUALS)
def test_residual_of_zero_falls_back(residual):
    """Rounding can leave a residual of 0 after a rejection; the draw must not become NaN or token 0."""
    p = np.float32([[0.0, 0.75, 0.25]])
    np.testing.assert_array_equal(residual_distribution(p, p, p, residual=residual), p)
    np.testing.assert_array_equal(output_distribution(p, p, p, residual=residual), p)
    rows = 1000
    tables = (batch(x, rows) for x in (p, np.concatenate([p, p]), p))
    accepted, token = verify(jax.random.key(0), np.zeros((rows, 1), np.int32), *tables, residual=residual)
    assert not accepted.any()
    np.testing.assert_allclose(np.bincount(token, minlength=3) / rows, p[0], atol=0.07)


def greedy_case(seed, rows=64, gamma=4, vocab=6, eta=6.0, tail="teacher"):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (rows, gamma + 1, vocab)).astype(np.float32)
    q = np.asarray(jax.nn.softmax(z[:, :gamma] + rng.normal(0, 1, (rows, gamma, vocab)).astype(np.float32)))
    _, p_hat = retrieval_augmented_target(z[:, :gamma], q, eta=eta, temperature=0, tail=tail)
    return z, q, target_distribution(z, temperature=0), p_hat


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("tail", TAIL_RULES)
@pytest.mark.parametrize("eta", [0.0, 6.0, 30.0])
def test_greedy_accepts_and_replaces_with_the_mixed_argmax(residual, tail, eta):
    """Greedy is the same call: accept iff x' is p_hat's argmax, else replace by it; the bonus is argmax z."""
    z, q, p, p_hat = greedy_case(0, eta=eta, tail=tail)
    drafts, want = q.argmax(-1).astype(np.int32), np.asarray(p_hat).argmax(-1)
    gamma = drafts.shape[1]
    results = [verify(jax.random.key(s), drafts, q, p, p_hat, residual=residual) for s in range(3)]
    for accepted, token in results:
        for row in range(len(z)):
            n = 0
            while n < gamma and drafts[row, n] == want[row, n]:
                n += 1
            assert int(accepted[row]) == n
            assert int(token[row]) == (want[row, n] if n < gamma else z[row, gamma].argmax())
    assert len(np.unique(results[0][0])) > 1


def test_greedy_rejection_prefers_the_mixed_argmax_over_the_targets():
    """Draft 0, target 1, mixed 2: the answer carries what retrieval taught, token 2, with either residual."""
    one_hot = np.eye(3, dtype=np.float32)
    q = np.float32([[[0.5, 0.1, 0.4]]])
    for residual in RESIDUALS:
        p, p_hat = one_hot[[1, 1]][None], one_hot[[2]][None]
        accepted, token = verify(jax.random.key(0), np.int32([[0]]), q, p, p_hat, residual=residual)
        assert (int(accepted[0]), int(token[0])) == (0, 2)


@pytest.mark.parametrize("dust_p, dust_p_hat", [(1e-9, 1e-9), (1e-9, 0.0), (0.0, 1e-9)])
def test_saturated_sampling_is_not_taken_for_greedy(dust_p, dust_p_hat):
    """A confident model rounds to one without being greedy: Algorithm 1's residual stands."""
    p, p_hat = np.float32([dust_p, 1.0, dust_p]), np.float32([dust_p_hat, dust_p_hat, 1.0])
    q = np.float32([0.9, 0.05, 0.05])
    np.testing.assert_allclose(residual_distribution(q, p, p_hat, residual="rapid"), [0, 1, 0], atol=1e-6)


def test_gamma_zero_is_plain_decoding():
    """Without a draft the step draws from p."""
    rows, p = 50_000, np.float32(P)
    empty = np.zeros((rows, 0, 3), np.float32)
    accepted, token = verify(jax.random.key(0), np.zeros((rows, 0), np.int32), empty, batch(p[None], rows), empty)
    assert accepted.dtype == token.dtype == jnp.int32 and not accepted.any()
    assert total_variation(np.bincount(token, minlength=3) / rows, p) < 0.01


def test_draft_length_ends_a_row_early():
    """A shorter draft must act as if gamma were smaller: bonus from p at its end, padding never looked at."""
    q, p, p_hat = chain_case(seed=11, gamma=3)
    rows = 60_000
    length = np.arange(rows, dtype=np.int32) % 4
    drafts = np.array(draw_drafts(jax.random.key(0), q, rows))
    drafts[np.arange(3)[None] >= length[:, None]] = -1
    key = jax.random.key(1)
    tables = [batch(x, rows) for x in (q, p, p_hat)]
    accepted, token = verify(key, drafts, *tables, draft_length=length)
    accepted, token = np.asarray(accepted), np.asarray(token)
    assert (accepted <= length).all()
    for n in range(4):
        complete = (length == n) & (accepted == n)
        assert total_variation(np.bincount(token[complete], minlength=3) / complete.sum(), p[n]) < 0.03
    full = verify(key, drafts, *tables, draft_length=np.full(rows, 3, np.int32))
    rejected = accepted < length
    np.testing.assert_array_equal(accepted[rejected], np.asarray(full[0])[rejected])
    np.testing.assert_array_equal(token[rejected], np.asarray(full[1])[rejected])


@pytest.mark.parametrize("per_row_keys", [False, True])
def test_a_row_does_not_depend_on_its_batch(per_row_keys):
    """The same question must get the same answer alone and among others."""
    q, p, p_hat = chain_case(seed=12, gamma=3, vocab=5)
    rows, half = 64, 32
    key = jax.random.split(jax.random.key(5), rows) if per_row_keys else jax.random.key(5)
    drafts = draw_drafts(jax.random.key(6), q, rows)
    tables = [batch(x, rows) for x in (q, p, p_hat)]
    together = verify(key, drafts, *tables)
    part = verify(key[:half] if per_row_keys else key, drafts[:half], *(x[:half] for x in tables))
    for j in range(2):
        np.testing.assert_array_equal(together[j][:half], part[j])
    if per_row_keys:
        order = np.random.default_rng(0).permutation(rows)
        shuffled = verify(key[order], drafts[order], *tables)
        for j in range(2):
            np.testing.assert_array_equal(together[j][order], shuffled[j])
    assert len(np.unique(together[0])) > 1


def test_jit_vmap_and_raw_keys_agree_with_the_plain_call():
    """The engine calls it inside a jitted loop; analyses map it over seeds; notebooks pass a PRNGKey."""
    q, p, p_hat = chain_case(seed=13)
    rows = 32
    drafts = draw_drafts(jax.random.key(0), q, rows)
    tables = [batch(x, rows) for x in (q, p, p_hat)]
    keys = jax.random.split(jax.random.key(1), 2)
    plain = verify_chain(keys[0], drafts, *tables)
    mapped = jax.jit(jax.vmap(lambda key: verify_chain(key, drafts, *tables)))(keys)
    raw = verify(jax.random.key_data(keys[0]), drafts, *tables)
    raw_rows = verify(jax.random.key_data(jax.random.split(keys[0], rows)), drafts, *tables)
    typed_rows = verify(jax.random.split(keys[0], rows), drafts, *tables)
    for j in range(2):
        np.testing.assert_array_equal(plain[j], verify(keys[0], drafts, *tables)[j])
        np.testing.assert_array_equal(plain[j], mapped[j][0])
        np.testing.assert_array_equal(plain[j], raw[j])
        np.testing.assert_array_equal(typed_rows[j], raw_rows[j])


weights = hnp.arrays(np.float32, (3, 6), elements=st.one_of(st.just(0.0), st.floats(2**-20, 1, width=32)))


@settings(max_examples=80, deadline=None)
@given(q=weights, p=weights, p_hat=weights, residual=st.sampled_from(RESIDUALS))
def test_output_is_always_a_distribution(q, p, p_hat, residual):
    """Zeros and lopsided tables must not give NaN, negative mass or mass outside the supports."""
    for x in (q, p, p_hat):
        x[:, 0] += x.sum(-1) == 0
        x /= x.sum(-1, keepdims=True)
    for function in (output_distribution, residual_distribution):
        law = np.asarray(function(q, p, p_hat, residual=residual))
        assert (law >= 0).all()
        np.testing.assert_allclose(law.sum(-1), 1, atol=1e-5)
        assert (law[(p == 0) & (p_hat == 0)] == 0).all()
    distance = np.asarray(total_variation_rapid(q, p, p_hat))
    assert ((distance >= 0) & (distance <= 1 + 1e-6)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"residual": "standard"}, "residual must be one of rapid, exact"),
        ({"draft_tokens": np.zeros(2, np.int32)}, "draft_tokens must be"),
        ({"draft_tokens": np.zeros((4, 1), np.int32)}, "draft_probs must have shape"),
        ({"draft_probs": np.ones((4, 2, 5)) / 5}, "draft_probs must have shape"),
        ({"p": np.ones((4, 2, 3)) / 3}, "p must have shape"),
        ({"p": np.ones((4, 3)) / 3}, "p \\[B, gamma \\+ 1, V\\]"),
        ({"p_hat": np.ones((4, 3, 3)) / 3}, "p_hat must have shape"),
        ({"draft_length": np.zeros(3, np.int32)}, "draft_length must have shape"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "one per row \\[4\\]"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(change, message):
    """Tables that do not belong together must stop before they give tokens."""
    arguments = {
        "key": jax.random.key(0),
        "draft_tokens": np.zeros((4, 2), np.int32),
        "draft_probs": np.ones((4, 2, 3)) / 3,
        "p": np.ones((4, 3, 3)) / 3,
        "p_hat": np.ones((4, 2, 3)) / 3,
    }
    with pytest.raises(ValueError, match=message) as error:
        verify_chain(**(arguments | change))
    assert "\n" not in str(error.value)


def test_closed_forms_refuse_bad_arguments():
    """An analysis must not broadcast one row's table over another's."""
    with pytest.raises(ValueError, match="residual must be one of rapid, exact"):
        output_distribution(Q, P, P, residual="none")
    with pytest.raises(ValueError, match="residual must be one of rapid, exact"):
        residual_distribution(Q, P, P, residual="none")
    with pytest.raises(ValueError, match="p_hat must have shape"):
        total_variation_rapid(Q, P, P[:2])
    with pytest.raises(ValueError, match="p must have shape"):
        output_distribution(Q, P[None], P)
