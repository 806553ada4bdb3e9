"""What a step emits of a draft, and what it counts, where little or nothing is proposed."""

import types

import jax
import jax.numpy as jnp

from rapid_jax.decoding.accept import Accepted, _try_alternatives, accept_candidates
from rapid_jax.decoding.drafter import Alternatives, CandidateDraft, ChainDraft
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls
from rapid_jax.verification.candidates import share_beginnings

VOCAB = 4


def test_a_row_that_proposes_nothing_has_nothing_rejected():
    """Its token was drawn from the target already: tried again, it would come from another law."""
    two = jnp.zeros((2,), jnp.int32)
    alternatives = Alternatives(jnp.array([[1], [1]]), jnp.array([0, 1]))
    probs = jnp.tile(jnp.array([0.5, 0.5, 0.0, 0.0]), (2, 1, 1))
    draft = ChainDraft(jnp.array([[0], [0]]), probs, jnp.array([0, 1]), two, alternatives)
    no_sources, refused = jnp.zeros((2, 0), jnp.int32), jnp.array([-1, 0])
    accepted = Accepted(jnp.array([[3, 0], [3, 0]]), two, None, draft.lengths, two, no_sources, two, refused)
    p_hat = jnp.tile(jnp.array([0.0, 1.0, 0.0, 0.0]), (2, 1))  # of which token 1, the alternative, is all
    keys, logits = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 1, VOCAB)).at[:, :, 2].set(100.0)
    after = _try_alternatives(Warping.of(1.0), keys, draft, alternatives, p_hat, logits, accepted)
    assert after.tokens.tolist() == [[3, 0], [1, 2]] and after.num_accepted.tolist() == [0, 1]
    assert after.rows.tolist() == [[0, 1], [0, 2]] and after.proposed.tolist() == [0, 2]
    assert after.refused.tolist() == [-1, -1]


def test_candidates_are_counted_as_far_as_they_were_tested():
    """No candidate is no test, a whole one is tested to its end: the acceptance rates of reports are made of these."""
    tokens = jnp.array([[[1, 1], [2, 3]]] * 3)
    lengths, sources = jnp.array([[0, 0], [2, 2], [1, 2]]), jnp.array([[0, 1]] * 3)
    none = jnp.zeros((3,), jnp.int32)
    tree, lengths = share_beginnings(tokens, lengths, 4)
    draft = CandidateDraft(tokens, lengths, sources, none[:, None][:, :0], none, tree)
    said = jnp.array(
        [[2, 0, 0, 3, 1], [2, 0, 0, 3, 1], [2, 0, 0, 0, 1]]
    )  # behind the last token and behind each drafted
    spec = types.SimpleNamespace(drafter=types.SimpleNamespace(sources=("near", "far")))
    keys = jax.random.split(jax.random.key(0), 3)
    after = accept_candidates(spec, Controls.of(), keys, none, draft, jax.nn.one_hot(said, VOCAB))
    assert after.num_accepted.tolist() == [0, 2, 1]
    assert [row[: n + 1] for row, n in zip(after.tokens.tolist(), [0, 2, 1], strict=True)] == [[2], [2, 3, 1], [2, 0]]
    assert after.proposed.tolist() == [0, 4, 3] and after.tested.tolist() == [0, 2, 2]
    assert after.by_source.tolist() == [[0, 0], [0, 2], [0, 1]]
