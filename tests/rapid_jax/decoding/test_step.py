"""The whole jitted step: the law of its tokens, cuts at stop ids and budgets, counters."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.decoder import Decoder
from rapid_jax.benchmarking.acceptance import ForcedAcceptance
from rapid_jax.decoding.prefill import prefill_tail
from rapid_jax.decoding.sampling import Warping, warp_logits
from rapid_jax.decoding.step import burst
from rapid_jax.drafting import EarlyStopDrafter
from rapid_jax.verification import output_distribution, retrieval_augmented_target
from tests.marks import quick, slow

VOCAB = 8
SAMPLES = 4096  # rows of one batch: the same prompt, another random key each
# Chi-square beyond these bounds has probability below 1e-6 under the law; seeds are fixed, so nothing here is flaky.
BOUND = {7: 42.0, 63: 138.0, 511: 684.0}

# Those that differ in temperature, top-k and top-p alone share a program.
SPECS = {
    "plain": dict(),
    "warped": dict(temperature=0.7, top_k=5, top_p=0.9),
    "exact": dict(residual="exact", tail="augmented"),
    "several": dict(first_candidates=3),
    "several warped": dict(first_candidates=3, temperature=0.7, top_k=5, top_p=0.9),
    "several exact": dict(first_candidates=3, residual="exact"),
    "early": dict(stop_threshold=0.41),
    "early warped": dict(stop_threshold=0.41, temperature=0.7, top_k=5, top_p=0.9),
    "several early": dict(first_candidates=3, stop_threshold=0.41),
    "confident early": dict(stop_confidence=0.2),
    "several confident early": dict(first_candidates=3, stop_confidence=0.2, stop_threshold=0.3),
    "windowed": dict(windowed=True),
    "windowed warped": dict(windowed=True, temperature=0.7, top_k=5, top_p=0.9),
    "windowed several early": dict(windowed=True, first_candidates=3, stop_threshold=0.41),
}
# Options of the drafter that must not change what is said, only how fast.
OPTIONS = {name: SPECS[name] for name in ("several", "early", "several early", "confident early")}


def law(logits, *, temperature=1.0, top_k=0, top_p=1.0, **_):
    return np.asarray(jax.nn.softmax(warp_logits(logits, Warping.of(temperature, top_k, top_p))), np.float64)


def chi_square(counts, probs):
    """Pearson's statistic; cells that the law forbids must be empty, rare cells are pooled."""
    counts, expected = np.ravel(counts).astype(float), np.ravel(probs) * np.sum(counts)
    assert not counts[expected < 1e-9].any(), "a token was emitted that the law forbids"
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    return float(np.sum((counts - expected) ** 2 / np.maximum(expected, 1e-9)))


@pytest.fixture(scope="module")
def sampled(lab):
    """Samples of the first two tokens [SAMPLES,2], by spec and eta; each run at most once."""
    cache = {}

    def draw(name, eta):
        if (name, eta) not in cache:
            questions = [lab.questions[0]] * SAMPLES
            report = lab.run(lab.spec(gamma=2, **SPECS[name]), questions, eta=eta, budget=2, burst_steps=2)
            assert (report.num_tokens == 2).all()
            cache[name, eta] = report
        return cache[name, eta]

    return draw


@pytest.fixture(scope="module")
def prompt(lab):
    return np.array(lab.document + lab.questions[0])


LAWS = ("plain", "warped", "several", "several warped", "windowed", "windowed warped")


@pytest.mark.parametrize("name", quick([name for name in SPECS if "exact" not in name], *LAWS))
def test_speculative_sampling_draws_from_the_target(lab, sampled, prompt, name):
    """eta = 0 is lossless: first two tokens follow the target's own joint law, computed by a plain forward."""
    prompts = np.concatenate([np.tile(prompt, (VOCAB, 1)), np.arange(VOCAB)[:, None]], axis=1)
    logits = lab.target.logits(prompts)
    first, second = law(logits[0, -2], **SPECS[name]), law(logits[:, -1], **SPECS[name])
    report = sampled(name, 0.0)
    tokens = report.output[:, :2]
    joint = np.zeros((VOCAB, VOCAB))
    np.add.at(joint, (tokens[:, 0], tokens[:, 1]), 1)
    assert 0 < report.counters.accepted.sum() < report.counters.tested.sum(), "both branches must be exercised"
    assert chi_square(joint.sum(1), first) < BOUND[7]
    assert chi_square(joint, first[:, None] * second) < BOUND[63]


@pytest.mark.parametrize("name, eta", [("plain", 5.0), ("exact", 5.0), ("several exact", 5.0), slow("early", 5.0)])
def test_transfer_draws_from_the_documented_law(lab, sampled, prompt, name, eta):
    """eta > 0: the first token follows output_distribution(q, p, p_hat) of the residual that was chosen."""
    drafter_prompt = np.array([lab.passage + lab.questions[0]])
    q = jnp.asarray(law(lab.drafter.logits(drafter_prompt)[0, -1]), jnp.float32)
    settings = dict(tail=SPECS[name].get("tail", "teacher"))
    p, p_hat = retrieval_augmented_target(lab.target.logits(prompt[None])[0, -1], q, eta=eta, **settings)
    residual = SPECS[name].get("residual", "rapid")
    expected = np.asarray(output_distribution(q, p, p_hat, residual=residual), np.float64)
    counts = np.bincount(sampled(name, eta).output[:, 0], minlength=VOCAB)
    assert chi_square(counts, expected) < BOUND[7]
    assert chi_square(counts, np.asarray(p, np.float64)) > BOUND[7], "the test could not tell transfer from none"


@pytest.mark.slow
def test_rows_that_stop_at_different_tokens_draw_from_the_target(lab):
    """Some first tokens end the draft and others do not: that choice must not favour any token that follows."""
    question = lab.questions[3]
    options = dict(stop_threshold=0.41)
    report = lab.run(lab.spec(gamma=3, **options), [question] * SAMPLES, budget=3, burst_steps=3)
    first_steps = lab.run(lab.spec(gamma=3, **options), [question] * 64, budget=3, burst_steps=1)
    assert len(set(first_steps.counters.proposed.tolist())) > 1 and (report.num_tokens == 3).all()
    pairs = np.stack(np.meshgrid(np.arange(VOCAB), np.arange(VOCAB), indexing="ij"), axis=-1).reshape(-1, 2)
    texts = np.concatenate([np.tile(lab.document + question, (len(pairs), 1)), pairs], axis=1)
    laws = law(lab.target.logits(texts)[:, -3:]).reshape(VOCAB, VOCAB, 3, VOCAB)
    expected = laws[0, 0, 0][:, None, None] * laws[:, 0, 1][:, :, None] * laws[:, :, 2]
    joint = np.zeros((VOCAB, VOCAB, VOCAB))
    np.add.at(joint, tuple(report.output[:, :3].T), 1)
    assert chi_square(joint, expected) < BOUND[511]
    assert chi_square(joint.sum((1, 2)), expected.sum((1, 2))) < BOUND[7]
    assert chi_square(joint.sum(2), expected.sum(2)) < BOUND[63]
    assert chi_square(joint.sum((0, 1)), expected.sum((0, 1))) < BOUND[7]


def test_the_statistic_can_tell_neighbouring_laws_apart(lab, sampled, prompt):
    """Samples of T = 1 are not those of T = 0.9: the bound would catch a temperature applied twice or not at all."""
    other = law(lab.target.logits(prompt[None])[0, -1], temperature=0.9)
    counts = np.bincount(sampled("plain", 0.0).output[:, 0], minlength=VOCAB)
    assert chi_square(counts, other) > 20


@pytest.fixture(scope="module")
def long_run(lab):
    """Four questions of different length, sampled, cut by nothing but the budget of 16."""
    return lab.run(lab.spec(), lab.questions, budget=16)


def rows_of(report):
    return [row[:count].tolist() for row, count in zip(report.output, report.num_tokens, strict=True)]


def test_budgets_are_exact_and_only_cut(lab, long_run):
    """A row may not emit one token too many, nor another token because of its budget; 0 marks a filler row."""
    budgets = [1, 16, 0, 6]
    report = lab.run(lab.spec(), lab.questions, budget=budgets)
    assert report.num_tokens.tolist() == budgets and report.done.all()
    assert rows_of(report) == [row[:budget] for row, budget in zip(rows_of(long_run), budgets, strict=True)]
    assert all(not row[budget:].any() for row, budget in zip(report.output, budgets, strict=True))
    assert report.counters.steps[2] == report.counters.proposed[2] == 0


def test_stop_ids_cut_exactly(lab, long_run):
    """The stop id is the last token, even in the middle of an accepted draft; rows that meet none run on."""
    stop = 2
    report = lab.run(lab.spec(stop_ids=(stop, 99)), lab.questions, budget=16)
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in rows_of(long_run)]
    assert any(len(row) < 16 for row in expected)
    assert rows_of(report) == expected
    assert report.done.all()


def test_counters_agree_with_each_other(long_run):
    """Acceptance figures in reports are made of these."""
    c = long_run.counters
    assert (c.accepted <= c.tested).all() and (c.tested <= c.proposed).all()
    assert (c.proposed == 3 * c.steps).all()
    assert (c.steps <= c.tested).all() and (c.tested <= c.accepted + c.steps).all()
    emitted = c.accepted + c.steps  # before the budget cut the last step
    assert (long_run.num_tokens <= emitted).all() and (emitted < long_run.num_tokens + 4).all()


@pytest.fixture(scope="module")
def long_runs(lab):
    """A function: the same four questions with one of the drafter's options."""
    return functools.cache(lambda name: lab.run(lab.spec(**OPTIONS[name]), lab.questions, budget=16))


@pytest.mark.parametrize("name", quick(OPTIONS, "several"))
def test_counters_of_the_options_agree_with_each_other(long_runs, name):
    """One token a position is tested, an accepted alternative counts as one, forwards are those of the longest row."""
    c, report = long_runs(name).counters, long_runs(name)
    alternatives = OPTIONS[name].get("first_candidates", 1) - 1
    chain = c.proposed - alternatives * c.steps
    assert (c.steps <= c.tested).all() and (c.tested <= chain).all() and (c.accepted <= c.tested).all()
    assert (c.tested <= c.accepted + c.steps).all()
    emitted = c.accepted + c.steps
    assert (report.num_tokens <= emitted).all() and (emitted < report.num_tokens + 4).all()
    assert (chain <= c.drafter_forwards).all() and (c.drafter_forwards <= 3 * c.steps).all()
    if "early" in name:
        assert (c.drafter_forwards < 3 * c.steps).any() and (chain > c.steps).any()
    else:
        assert (chain == 3 * c.steps).all()


@pytest.mark.parametrize("name", quick(OPTIONS, "several"))
def test_results_of_the_options_depend_on_nothing_but_the_row(lab, long_runs, name):
    """Other neighbours, a neighbour that ends early and another burst size leave a row's tokens and drafts alone."""
    order, spec = [2, 0, 3, 1], lab.spec(**OPTIONS[name])
    questions = [lab.questions[i] for i in order]
    moved = lab.run(spec, questions, budget=[16, 16, 2, 16], rows=order, burst_steps=1)
    alone = long_runs(name)
    for place, row in enumerate(order):
        size = 2 if place == 2 else 16
        assert rows_of(moved)[place] == rows_of(alone)[row][:size]
        if size == 16:
            for counter in ("steps", "proposed", "tested", "accepted"):
                assert getattr(moved.counters, counter)[place] == getattr(alone.counters, counter)[row]


@pytest.mark.parametrize("candidates", [(1, 3), slow((1, 2, 4))], ids=str)
def test_alternatives_save_steps(lab, candidates):
    """What they are for: a rejected first token need not end the step with a single one."""
    steps = [
        sum(lab.run(lab.spec(first_candidates=k), lab.questions, seed=seed).counters.steps.sum() for seed in range(16))
        for k in candidates
    ]
    assert all(more > 1.05 * fewer for more, fewer in itertools.pairwise(steps))


def test_plain_decoding_counts_a_step_a_token(lab):
    """lc in the same loop: no draft, one token a step."""
    report = lab.run(lab.spec(gamma=0, temperature=0.0), lab.questions, budget=6)
    assert (report.counters.steps == 6).all() and not report.counters.proposed.any()


def test_results_do_not_depend_on_the_burst_size(lab, long_run):
    """How often the host reads must not change what is said."""
    assert rows_of(lab.run(lab.spec(), lab.questions, budget=16, burst_steps=1)) == rows_of(long_run)


def test_results_do_not_depend_on_the_rest_of_the_batch(lab, long_run):
    """Row numbers carry the randomness: another order and other neighbours leave a row's tokens alone."""
    order = [2, 0, 3, 1]
    moved = lab.run(lab.spec(), [lab.questions[i] for i in order], budget=[16, 16, 2, 16], rows=order)
    for place, row in enumerate(order):
        assert rows_of(moved)[place] == rows_of(long_run)[row][: 2 if place == 2 else 16]


def test_seeds_and_row_numbers_change_sampled_results(lab, long_run):
    """Equal noise in every row would give B copies of one sample."""
    assert rows_of(lab.run(lab.spec(), lab.questions, budget=16, seed=1)) != rows_of(long_run)
    same_question = lab.tokens(lab.spec(), [lab.questions[0]] * 4, budget=16)
    assert len(set(map(tuple, same_question))) > 1


@pytest.mark.parametrize("name", ["plain", slow("several early")])
def test_a_step_in_bfloat16_keeps_the_types_of_its_state(lab, name):
    """Accelerators decode in bfloat16: a float32 that slips into the state would fail to trace there, and only there."""
    low = Decoder(lab.target.decoder.config, jnp.bfloat16)
    spec = lab.spec()
    started = lab.start(spec, lab.questions)
    context, drafter_model, state = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, started
    )
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lab.target.params)
    drafter = dataclasses.replace(spec.drafter, decoder=low)
    if name != "plain":
        drafter = EarlyStopDrafter(dataclasses.replace(drafter, first_candidates=3), 0.4)
        state = dataclasses.replace(state, drafter_cache=drafter.initial_cache(state.drafter_cache))
    spec = dataclasses.replace(spec, target=low, drafter=drafter)
    run = functools.partial(burst, spec, 2)
    after, report = jax.eval_shape(run, params, context, drafter_model, spec.controls(1.0), state.done, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert report.output.dtype == jnp.int32


GREEDY = {"plain": {}, **OPTIONS}
QUICK = ("plain", "windowed")
LOSSLESS = {**GREEDY, **{name: SPECS[name] for name in ("windowed", "windowed several early")}}


@pytest.fixture(scope="module")
def greedy(lab):
    """A function: greedy tokens, a list a row, with some options."""
    return functools.cache(lambda name: lab.tokens(lab.spec(**LOSSLESS[name], temperature=0.0), lab.questions))


@pytest.mark.parametrize("name", quick(LOSSLESS, *QUICK))
def test_greedy_speculation_gives_the_tokens_of_plain_greedy_decoding(lab, greedy, name):
    """eta = 0 at T = 0: token for token, but for near-ties of the target's two best logits."""
    plain = lab.tokens(lab.spec(gamma=0, temperature=0.0), lab.questions)
    for question, a, b in zip(lab.questions, plain, greedy(name), strict=True):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                logits = lab.target.logits([lab.document + question + a[:index]])[0, -1]
                assert abs(logits[x] - logits[y]) < 1e-4
                break


@pytest.mark.parametrize("name", quick(LOSSLESS, *QUICK))
def test_greedy_tokens_are_the_argmax_of_a_plain_forward(lab, greedy, name):
    """Caches, positions and commits against one forward over the whole text (teacher forcing)."""
    for question, tokens in zip(lab.questions, greedy(name), strict=True):
        prompt = lab.document + question
        logits = np.asarray(lab.target.logits([prompt + tokens]))[0, len(prompt) - 1 : -1]
        chosen = np.take_along_axis(logits, np.array(tokens)[:, None], axis=1)[:, 0]
        assert (logits.max(-1) - chosen < 1e-4).all()


@pytest.fixture(scope="module")
def deep_lab(lab, make_small_model):
    """Models of two layers: keys and values of the second depend on what a token has seen."""
    deep = type(lab)()
    deep.target, deep.drafter = make_small_model(1, num_layers=2), make_small_model(2, num_layers=2)
    return deep


@pytest.mark.parametrize("name", quick(GREEDY, "plain"))
def test_tails_hold_what_a_prefill_of_the_text_would_write(deep_lab, name):
    """Masks, positions and kept rows: one wrong key or value stays in the cache for the rest of the answer."""
    lab, questions = deep_lab, [*deep_lab.questions, *deep_lab.questions]
    spec = lab.spec(**GREEDY[name])
    context, drafter_model, state = lab.start(spec, questions, budget=24)
    run = jax.jit(functools.partial(burst, spec, 6))
    state, report = run(lab.target.params, context, drafter_model, spec.controls(), state.done, state)
    texts = [question + row for question, row in zip(questions, rows_of(report), strict=True)]
    assert report.counters.accepted.sum() > 4 and not report.done.any()
    drafter_tail = getattr(state.drafter_cache, "tail", state.drafter_cache)
    readers = (
        (lab.target, context, state.target_tail, 1),
        (lab.drafter, drafter_model[1], drafter_tail, 2),
    )
    for model, read, tail, missing in readers:
        rows = [text[:-missing] for text in texts]
        settings = dict(capacity=64, chunk=32, dtype=jnp.float32)
        expected = prefill_tail(lab.programs, model.decoder, model.params, read, rows, **settings)
        np.testing.assert_array_equal(tail.length, expected.length)
        for found, wanted in zip(tail.k + tail.v, expected.k + expected.v, strict=True):
            for row, length in enumerate(tail.length):  # values of up to 100
                np.testing.assert_allclose(found[row, :, :length], wanted[row, :, :length], atol=1e-2)


def test_forced_acceptance_refuses_alternatives_in_one_line(lab):
    """It would not know what to do with them, and a benchmark must not print a rate that was not forced."""
    spec = dataclasses.replace(lab.spec(first_candidates=2), verify=ForcedAcceptance(0.5))
    context, drafter_model, state = lab.start(spec, lab.questions)
    with pytest.raises(ValueError, match="set first_candidates to 1") as error:
        jax.eval_shape(
            functools.partial(burst, spec, 1),
            lab.target.params,
            context,
            drafter_model,
            spec.controls(),
            state.done,
            state,
        )
    assert "\n" not in str(error.value)
