"""Verification of a chain of drafted tokens: the ratio test and the replacement of the first rejected token.

A drafted token x' ~ q is accepted with probability min(1, p_hat(x') / q(x')). The first rejection is replaced by a
draw from one of two residuals; after a chain without a rejection one bonus token is drawn from p (no q, hence no
p_hat, exists at that position). With m = min(q, p_hat), one verified position is distributed as

    out = m + (1 - sum m) * norm(residual)

    "exact"  residual max(p_hat - q, 0):           out = p_hat (standard speculative sampling against p_hat).
    "rapid"  residual max(p - p_hat, p - q, 0):    TV(out, p) = sum_x max(m(x) - p(x), 0)
             (RAPID, arXiv 2502.20330, Algorithm 1 line 25), which is 0 only if p_hat never lifts a drafted
             token above p.

At eta = 0, p_hat = p: the residuals coincide and out = p, which is lossless. At eta > 0 neither mode is lossless with
respect to p.

Greedy decoding hands in point masses p and p_hat (`retrieval_augmented_target` at temperature 0), q as the softmax
at temperature 1, and its argmax as the draft. The ratio test then accepts exactly the argmax of p_hat, and where p
and p_hat are both point masses either residual is p_hat: the output is that argmax, whatever the random key.
"""

import jax
import jax.numpy as jnp

from rapid_jax.config.speculation import RESIDUALS


def verify_chain(
    key: jax.Array,
    draft_tokens: jax.Array,
    draft_probs: jax.Array,
    p: jax.Array,
    p_hat: jax.Array,
    *,
    residual: str = "rapid",
    draft_length: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Accepts a prefix of each row's draft and draws the token that follows it.

    RAPID (arXiv 2502.20330), Algorithm 1. A row's result depends on its own key and inputs alone. gamma may be 0:
    plain decoding, the next token is drawn from p. No token is emitted that has probability 0 in the distribution
    that it is drawn from.

    Args:
      key: one random key, folded with the row number, or one key per row [B].
      draft_tokens: x' int [B, gamma].
      draft_probs: q [B, gamma, V], the distributions that x' was drawn from.
      p: the target's distributions [B, gamma + 1, V]; the last one follows the whole draft.
      p_hat: the retrieval-augmented target's distributions [B, gamma, V].
      residual: distribution that replaces the first rejected token, "rapid" or "exact".
      draft_length: int [B] in [0, gamma], tokens proposed in each row; the rest of the row is ignored and the bonus
        token comes from p at position draft_length. None: all gamma.

    Returns:
      (num_accepted, next_token), int32 [B]: a row commits draft_tokens[:num_accepted], then next_token.

    Raises:
      ValueError: unknown residual, or shapes that do not fit each other.
    """
    _check_residual(residual)
    if jnp.ndim(draft_tokens) != 2 or jnp.ndim(p) != 3:
        raise ValueError(
            f"draft_tokens must be [B, gamma] and p [B, gamma + 1, V], got {jnp.shape(draft_tokens)} and {jnp.shape(p)}"
        )
    rows, gamma = jnp.shape(draft_tokens)
    vocab = jnp.shape(p)[-1]
    _check_shape("draft_probs", draft_probs, (rows, gamma, vocab))
    _check_shape("p", p, (rows, gamma + 1, vocab))
    _check_shape("p_hat", p_hat, (rows, gamma, vocab))
    if draft_length is None:
        draft_length = jnp.full((rows,), gamma, jnp.int32)
    _check_shape("draft_length", draft_length, (rows,))

    def verify_row(key, tokens, q, p, p_hat, length):
        u = jax.random.uniform(ratio_key(key), (gamma,))
        q_token, p_hat_token = (jnp.take_along_axis(x, tokens[:, None], axis=-1)[:, 0] for x in (q, p_hat))
        # u * q < p_hat is u < p_hat / q without the division, and never accepts a token of p_hat = 0.
        accepted = u * q_token < p_hat_token
        proposed = jnp.arange(gamma) < length
        num_accepted = jnp.sum(jnp.cumprod(proposed & accepted), dtype=jnp.int32)
        law = p[num_accepted]
        if gamma > 0:
            rejected = jnp.any(proposed & ~accepted)
            # After full acceptance the index is past the end; the clamped read is discarded with `rejected`.
            replacement = _residual_weights(q[num_accepted], law, p_hat[num_accepted], residual)
            law = jnp.where(rejected, replacement, law)
        return num_accepted, draw_next(key, law)

    q, p, p_hat = (jnp.asarray(x, jnp.float32) for x in (draft_probs, p, p_hat))
    tokens, length = jnp.asarray(draft_tokens), jnp.asarray(draft_length)
    return jax.vmap(verify_row)(row_keys(key, rows), tokens, q, p, p_hat, length)


def draw_next(key: jax.Array, law: jax.Array) -> jax.Array:
    """Draws the token that a step adds to what it accepts, with the part of its key that no ratio test uses.

    Args:
      key: the row's key of this position.
      law: [V], not negative; needs no normalisation. No token of weight 0 is drawn.

    Returns:
      int32 scalar.
    """
    return jax.random.categorical(jax.random.split(key)[1], jnp.log(law)).astype(jnp.int32)


def ratio_key(key: jax.Array) -> jax.Array:
    """The part of a row's key of one position that ratio tests use; `draw_next` uses the other."""
    return jax.random.split(key)[0]


def residual_distribution(q: jax.Array, p: jax.Array, p_hat: jax.Array, *, residual: str = "rapid") -> jax.Array:
    """Returns the distribution [..., V], float32, that replaces a rejected token.

    A residual that is 0 everywhere, met only through rounding, gives way to p_hat ("exact") or p ("rapid"). Where
    p and p_hat are both point masses (greedy decoding) the result is p_hat.

    Args:
      q: the drafter's distribution [..., V].
      p: the target's distribution [..., V].
      p_hat: the retrieval-augmented target's distribution [..., V].
      residual: "rapid" norm(max(p - p_hat, p - q, 0)) or "exact" norm(max(p_hat - q, 0)).

    Raises:
      ValueError: unknown residual, or shapes that differ.
    """
    _check_residual(residual)
    q, p, p_hat = _same_shape(q, p, p_hat)
    weights = _residual_weights(q, p, p_hat, residual)
    return weights / weights.sum(-1, keepdims=True)


def output_distribution(q: jax.Array, p: jax.Array, p_hat: jax.Array, *, residual: str = "rapid") -> jax.Array:
    """Returns the exact law [..., V], float32, of the token emitted at one drafted position.

    out = m + (1 - sum m) * residual_distribution, m = min(q, p_hat).

    Args:
      q: the drafter's distribution [..., V], from which the draft is drawn.
      p: the target's distribution [..., V].
      p_hat: the retrieval-augmented target's distribution [..., V].
      residual: "rapid" or "exact".

    Raises:
      ValueError: unknown residual, or shapes that differ.
    """
    replacement = residual_distribution(q, p, p_hat, residual=residual)
    q, p, p_hat = _same_shape(q, p, p_hat)
    accepted = jnp.minimum(q, p_hat)
    return accepted + jnp.maximum(1 - accepted.sum(-1, keepdims=True), 0) * replacement


def total_variation_rapid(q: jax.Array, p: jax.Array, p_hat: jax.Array) -> jax.Array:
    """Returns TV(out, p) = sum_x max(min(q, p_hat) - p, 0) of residual "rapid", float32 [...], in [0, 1].

    It measures how far sampled decoding leaves the target; 0 for eta = 0.

    Args:
      q: the drafter's distribution [..., V].
      p: the target's distribution [..., V].
      p_hat: the retrieval-augmented target's distribution [..., V].

    Raises:
      ValueError: shapes that differ.
    """
    q, p, p_hat = _same_shape(q, p, p_hat)
    return jnp.maximum(jnp.minimum(q, p_hat) - p, 0).sum(-1)


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """Returns typed random keys, one per row [rows]; row b of a single key is fold_in(key, b) for any `rows`.

    Args:
      key: one key or one key per row; typed (`jax.random.key`) or raw uint32 data (`jax.random.PRNGKey`).
      rows: B.

    Raises:
      ValueError: the number of keys is neither 1 nor `rows`.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))
    if key.shape != (rows,):
        raise ValueError(f"key must be one random key or one per row [{rows}], got shape {key.shape}")
    return key


def _residual_weights(q: jax.Array, p: jax.Array, p_hat: jax.Array, residual: str) -> jax.Array:
    """Returns the residual [..., V] up to a positive factor, with the cases of `residual_distribution` resolved."""
    source, floor = (p_hat, q) if residual == "exact" else (p, jnp.minimum(q, p_hat))
    weights = jnp.maximum(source - floor, 0)
    weights = jnp.where(weights.sum(-1, keepdims=True) > 0, weights, source)
    # Only greedy decoding (or a support of one token, where p = p_hat) has point masses on both sides.
    greedy = (jnp.sum(p > 0, -1, keepdims=True) == 1) & (jnp.sum(p_hat > 0, -1, keepdims=True) == 1)
    return jnp.where(greedy, p_hat, weights)


def _same_shape(*distributions: jax.Array) -> tuple[jax.Array, ...]:
    for name, x in zip(("p", "p_hat"), distributions[1:], strict=True):
        _check_shape(name, x, jnp.shape(distributions[0]))
    return tuple(jnp.asarray(x, jnp.float32) for x in distributions)


def _check_residual(residual: str) -> None:
    if residual not in RESIDUALS:
        raise ValueError(f"residual must be one of {', '.join(RESIDUALS)}, got {residual!r}")


def _check_shape(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    if jnp.shape(x) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {jnp.shape(x)}")
