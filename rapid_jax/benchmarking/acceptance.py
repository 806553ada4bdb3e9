"""Acceptance at a chosen rate, for speeds of models whose own acceptance says nothing (random weights)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rapid_jax.verification import residual_distribution
from rapid_jax.verification.chain import row_keys


@dataclasses.dataclass(frozen=True)
class ForcedAcceptance:
    """Takes the place of `verify_chain` and accepts drafted tokens with one probability, whatever the models say.

    Tokens are accepted independently of each other up to the first rejection. A draft of gamma tokens at rate a then
    gives (1 - a^(gamma+1)) / (1 - a) tokens a step in the mean (arXiv 2211.17192, Eq. 1). The rest of the step is the
    real one; what it emits is no sample of any model.

    Attributes:
      rate: probability of accepting a drafted token, in [0, 1].
    """

    rate: float

    def __call__(
        self,
        key: jax.Array,
        draft_tokens: jax.Array,
        draft_probs: jax.Array,
        p: jax.Array,
        p_hat: jax.Array,
        *,
        residual: str = "rapid",
        draft_length: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `verify_chain`, of drafts of at least one token.

        Args:
          key: one random key a row [B], or one for all.
          draft_tokens: int [B,gamma].
          draft_probs: q [B,gamma,V].
          p: the target's distributions [B,gamma+1,V].
          p_hat: the retrieval-augmented target's distributions [B,gamma,V].
          draft_length: int [B], tokens proposed in each row; None: all gamma.
          residual: what the token after a rejection is drawn from; computed as it really is, so that it takes its time.

        Returns:
          (num_accepted, next_token), int32 [B].
        """
        rows, gamma = draft_tokens.shape

        if draft_length is None:
            draft_length = jnp.full((rows,), gamma, jnp.int32)

        def one(
            key: jax.Array, q: jax.Array, p: jax.Array, p_hat: jax.Array, length: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            accept_key, next_key = jax.random.split(key)
            accepted = (jax.random.uniform(accept_key, (gamma,)) < self.rate) & (jnp.arange(gamma) < length)
            count = jnp.sum(jnp.cumprod(accepted), dtype=jnp.int32)
            rejected = jnp.minimum(count, gamma - 1)
            replacement = residual_distribution(q[rejected], p[rejected], p_hat[rejected], residual=residual)
            law = jnp.where(count < length, replacement, p[length])
            return count, jax.random.categorical(next_key, jnp.log(law)).astype(jnp.int32)

        return jax.vmap(one)(row_keys(key, rows), draft_probs, p, p_hat, draft_length)
