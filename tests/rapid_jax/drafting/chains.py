"""A drafter of eight tokens that has read a passage and two questions, and the law of its drafts by plain forwards."""

import jax
import jax.numpy as jnp
import numpy as np

from rapid_jax.decoding.drafter import Outcome
from rapid_jax.decoding.prefill import prefill_context, prefill_tail
from rapid_jax.decoding.sampling import Warping

VOCAB = 8
PASSAGE = [2, 6, 5, 3, 5]
ROWS = [[1, 6, 0, 3], [7, 4]]


def read(programs, model, rows):
    """(drafter model, tail, last tokens) after prefill."""
    settings = dict(chunk=32, dtype=jnp.float32)
    context = prefill_context(programs, model.decoder, model.params, [PASSAGE], **settings)
    tail = prefill_tail(
        programs, model.decoder, model.params, context, [row[:-2] for row in rows], capacity=32, **settings
    )
    return (model.params, context), tail, jnp.array([row[-2:] for row in rows], jnp.int32)


def run(programs, drafter, drafter_model, cache, last, seed=0, temperature=1.0):
    """The two results of `draft`, compiled."""
    warping = jax.tree.map(jnp.asarray, Warping.of(temperature))
    args = (drafter_model, cache, last, jax.random.split(jax.random.key(seed), len(last)), warping)
    return programs.get(drafter.draft, (), args)(*args)


def law(model, row, tokens):
    """The drafter's own distributions [gamma,V] after `row` and each drafted token, by a plain forward."""
    ids = PASSAGE + row + list(tokens[:-1])
    padded = np.array([ids + [0] * (32 - len(ids))])
    return np.asarray(jax.nn.softmax(model.logits(padded)[0, len(PASSAGE + row) - 1 : len(ids)]))


def check_law(model, draft, rows):
    """q of every proposed token is its law, and 0 behind them."""
    for row, tokens, probs, length in zip(
        rows, *map(np.asarray, (draft.tokens, draft.probs, draft.lengths)), strict=True
    ):
        np.testing.assert_allclose(probs[:length], law(model, row, tokens[:length]), atol=1e-5)
        assert not probs[length:].any()


def outcome(gamma, emitted):
    """The outcome that emits emitted[b] in row b."""
    tokens = [list(row) + [0] * (gamma + 1 - len(row)) for row in emitted]
    counts = jnp.array([len(row) for row in emitted], jnp.int32)
    return Outcome(jnp.array(tokens, jnp.int32), counts, jnp.zeros((len(emitted), 0, VOCAB)))
