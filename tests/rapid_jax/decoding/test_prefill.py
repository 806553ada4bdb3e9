"""Prefill in chunks: what the caches hold afterwards gives the logits of one plain forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding.prefill import next_positions, prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs

CHUNK = 32


@pytest.fixture(scope="module")
def model(make_small_model):
    return make_small_model(5, num_layers=2, num_heads=4, num_kv_heads=2)


@pytest.fixture(scope="module")
def programs():
    return Programs()


def ids(seed, length):
    return np.random.default_rng(seed).integers(0, 8, length).tolist()


@pytest.fixture(scope="module")
def following_logits(model):
    @jax.jit
    def forward(params, token, context, tail):
        positions = next_positions(1, context, tail)
        return model.decoder.apply({"params": params}, token, positions, context, tail, method="forward_logits")[0]

    return lambda token, context, tail: np.asarray(forward(model.params, jnp.asarray(token), context, tail))[:, 0]


def read(model, programs, documents, questions, **kwargs):
    settings = dict(chunk=CHUNK, dtype=jnp.float32)
    context = prefill_context(programs, model.decoder, model.params, documents, **settings, **kwargs)
    tail = prefill_tail(programs, model.decoder, model.params, context, questions, capacity=64, **settings)
    return context, tail


def check(model, following_logits, context, tail, prompts):
    """The next token's logits through the caches are those of one forward over document, question and token."""
    logits = following_logits(np.full((len(prompts), 1), 3, np.int32), context, tail)
    for row, prompt in zip(logits, prompts, strict=True):
        padded = np.array([prompt + [3] + [0] * (160 - len(prompt))])  # causal: what follows is not seen
        expected = np.asarray(model.logits(padded))[0, len(prompt)]
        np.testing.assert_allclose(row, expected, atol=2e-5)


def test_documents_and_questions_of_different_length(model, programs, following_logits):
    """Rows that end in different chunks, a question longer than a chunk and an empty one."""
    documents, questions = [ids(0, 77), ids(1, 41)], [ids(2, 37), []]
    context, tail = read(model, programs, documents, questions)
    assert context.length.tolist() == [77, 41] and tail.length.tolist() == [37, 0]
    check(model, following_logits, context, tail, [d + q for d, q in zip(documents, questions, strict=True)])


def test_rows_share_one_document(model, programs, following_logits):
    """A context of one row under a batch of questions."""
    document, questions = ids(3, 77), [ids(4, 5), ids(5, 30), ids(6, 1)]
    context, tail = read(model, programs, [document], questions)
    assert context.k[0].shape[0] == 1 and tail.k[0].shape[0] == 3
    check(model, following_logits, context, tail, [document + q for q in questions])


def test_a_document_as_long_as_its_bucket_fills_it(model, programs, following_logits):
    """No slot free: the last chunk must land in the last slots, not over the ones before."""
    document = ids(7, 96)
    context, tail = read(model, programs, [document], [ids(8, 4)])
    assert context.capacity == 96 == int(context.length[0])
    check(model, following_logits, context, tail, [document + ids(8, 4)])


def test_progress_is_told_after_every_chunk(model, programs):
    """A long prefill must not look hung; the last report says that all is read."""
    told = []
    read(model, programs, [ids(9, 77)], [ids(10, 4)], progress=lambda done, total: told.append((done, total)))
    assert told == [(32, 77), (64, 77), (77, 77)]


def test_lengths_of_one_bucket_share_their_programs(model, programs):
    """A second document or question of about the same length compiles nothing."""
    read(model, programs, [ids(11, 77)], [ids(12, 4)])
    compiled = len(programs.compiled)
    read(model, programs, [ids(13, 90)], [ids(14, 20)])
    assert len(programs.compiled) == compiled


def test_an_int8_context_is_rounded_once_all_is_read(model, programs, following_logits):
    """Chunks that read rounded keys would add their error to that of the next; a second document compiles nothing."""
    documents, questions = [ids(0, 77), ids(1, 41)], [ids(2, 37), []]
    exact, _ = read(model, programs, documents, questions)
    context, tail = read(model, programs, documents, questions, kv="int8")
    assert {x.dtype.name for x in (*context.k, *context.v)} == {"int8"} and tail.k[0].dtype == jnp.float32
    for ours, scale, theirs in zip(context.k, context.k_scale, exact.k, strict=True):
        used = np.arange(theirs.shape[2])[None, :] < np.asarray(exact.length)[:, None]
        error = np.abs(np.asarray(ours) * np.asarray(scale)[..., None] - theirs)
        assert np.all((error <= 0.501 * np.asarray(scale)[..., None]) | ~used[:, None, :, None])
    logits = following_logits(np.full((2, 1), 3, np.int32), context, tail)
    expected = following_logits(np.full((2, 1), 3, np.int32), *read(model, programs, documents, questions))
    assert 0 < np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()
    before = len(programs.compiled)
    read(model, programs, [ids(3, 70), ids(4, 50)], questions, kv="int8")
    assert len(programs.compiled) == before
