"""Verification of several candidates for one position: recursive rejection sampling without replacement.

The candidates were drawn one after another: x_1 ~ Q_1 = q, and x_{j+1} ~ Q_{j+1}, which is Q_j without x_j,
renormalised. They are tried in that order, with P_1 = p_hat:

    accept x_j with probability min(1, P_j(x_j) / Q_j(x_j));
    on rejection P_{j+1} = norm(max(P_j - Q_j, 0)), and try x_{j+1};
    after the last rejection draw from P_{k+1}.

(SpecInfer, arXiv 2305.09781, and, without replacement, MCSD, arXiv 2401.06706.) Given what was rejected before, x_j or
what takes its place is standard speculative sampling of P_j with Q_j as the drafter, hence distributed as P_j, provided
that what takes its place is distributed as P_{j+1}. From the last candidate back to the first: the emitted token is
distributed exactly as p_hat, and at eta = 0 as p. This is the residual "exact" of verification.chain with k candidates
in the place of one; the residual "rapid" has no such extension.

At temperature 0 p_hat is a point mass and the candidates are the best tokens of q: the one that is the argmax of p_hat
is accepted, and if none is, P_{k+1} is p_hat.

x_1 is the first token of a drafted chain, and its test is `verify_chain`'s. The token behind an accepted alternative is
a bonus, drawn from p.
"""

import jax
import jax.numpy as jnp

from rapid_jax.verification.chain import ratio_key, residual_distribution, row_keys


def verify_alternatives(
    key: jax.Array, first: jax.Array, alternatives: jax.Array, count: jax.Array, q: jax.Array, p_hat: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Tries x_2 to x_k, once x_1 is rejected.

    A row's result depends on its own key and inputs alone. No token of p_hat = 0 is accepted, nor has any weight in the
    law that is returned.

    Args:
      key: one random key, folded with the row number, or one key per row [B]; the part that ratio tests use.
      first: x_1, int [B].
      alternatives: x_2 to x_k, int [B, k-1]; those that are proposed have q > 0.
      count: int [B] in [0, k-1], how many of them are proposed, the first ones.
      q: float32 [B, V], that x_1 was drawn from.
      p_hat: float32 [B, V], the retrieval-augmented target's distribution.

    Returns:
      (chosen int32 [B], law float32 [B, V]): which of the alternatives is accepted, -1 for none, and the distribution
      that the token is to be drawn from where none is.

    Raises:
      ValueError: the number of keys is neither 1 nor B.
    """
    rows, size = alternatives.shape

    def verify_row(
        key: jax.Array, first: jax.Array, tokens: jax.Array, count: jax.Array, q: jax.Array, p: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        u = jax.random.uniform(ratio_key(key), (size,))
        chosen = jnp.int32(-1)
        p, q = after_rejection(p, q, first)
        for j in range(size):
            proposed, token = j < count, tokens[j]
            accepted = proposed & (u[j] * q[token] < p[token])
            chosen = jnp.where(accepted & (chosen < 0), j, chosen)
            following = after_rejection(p, q, token)
            p, q = (jnp.where(proposed, new, old) for new, old in zip(following, (p, q), strict=True))
        return chosen, p

    return jax.vmap(verify_row)(row_keys(key, rows), first, alternatives, count, q, p_hat)


def after_rejection(p: jax.Array, q: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns P_{j+1} and Q_{j+1}, float32 [V], once x_j is rejected.

    Args:
      p: P_j [V].
      q: Q_j [V].
      token: x_j, int scalar.

    Returns:
      (P_{j+1}, Q_{j+1}); the latter is 0 everywhere if x_j was the only token that Q_j allows.
    """
    rest = jnp.where(jnp.arange(q.shape[-1]) == token, 0.0, q)
    mass = jnp.sum(rest)
    return residual_distribution(q, p, p, residual="exact"), jnp.where(mass > 0, rest / mass, 0.0)
