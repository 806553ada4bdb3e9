"""The retrieval-augmented target: one step of distillation that takes the RAG drafter as its teacher.

RAPID (arXiv 2502.20330, Eq. 6 and 8) moves the target's logits along the gradient of the distillation loss,

    p_hat = softmax(z / T + eta * (q - p)),    p = softmax(z / T),

and leaves the tail of the vocabulary alone. Where that tail begins has two published readings:

    "teacher"    a token is in the tail if the drafter finds it unlikely, q < alpha * max q; it gets no transfer
                 (the official implementation).
    "augmented"  a token is in the tail if the result finds it unlikely, p_hat < alpha * max p_hat; it gets p back
                 (Eq. 9), and the vector is renormalised, which the paper leaves out: its sum can exceed 1.

At T = 0 p and p_hat are point masses, on argmax z and on the argmax of the mixed logits, with p and q of the mixing
taken at temperature 1. Greedy and sampled decoding then go through the same verification.
"""

import math

import jax
import jax.numpy as jnp

from rapid_jax.config.speculation import TAIL_RULES

MIN_TEMPERATURE = 1e-6  # below it z / T leaves the range of float32


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless the temperature is 0 (greedy) or a finite number of at least MIN_TEMPERATURE."""
    if temperature != 0 and not MIN_TEMPERATURE <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or at least {MIN_TEMPERATURE:g}, got {temperature}")


def scale_logits(logits: jax.Array, temperature: float) -> jax.Array:
    """Divides logits [..., V] by the temperature, in float32; temperature 0 (greedy) leaves them at temperature 1.

    Raises:
      ValueError: as `check_temperature`.
    """
    check_temperature(temperature)
    logits = jnp.asarray(logits, jnp.float32)
    return logits if temperature == 0 else logits / temperature


def target_distribution(target_logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Returns p, the distribution that the target alone decodes with; the bonus token is drawn from it.

    Args:
      target_logits: z [..., V]; masked tokens hold -inf, at least one logit of a row is finite.
      temperature: T, a Python number; 0 puts all mass on argmax z.

    Returns:
      float32 [..., V].

    Raises:
      ValueError: the temperature is neither 0 nor a finite number of at least MIN_TEMPERATURE.
    """
    return _distribution(scale_logits(target_logits, temperature), greedy=temperature == 0)


def retrieval_augmented_target(
    target_logits: jax.Array,
    draft_probs: jax.Array,
    *,
    eta: float | jax.Array,
    temperature: float = 1.0,
    tail: str = "teacher",
    alpha: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Mixes the drafter's knowledge into the target (RAPID, arXiv 2502.20330, Eq. 6, 8 and 9).

    The equations assume p and q warped alike. For top-k or top-p give logits that `decoding.sampling.warp_logits`
    has warped, with temperature 1 here (it has divided by T already), and as q the softmax of drafter logits that
    were warped alike. A token masked in the target keeps p = p_hat = 0 whatever q says.

    Args:
      target_logits: z [..., V]; masked tokens hold -inf, at least one logit of a row is finite.
      draft_probs: q [..., V], the drafter's distribution after the same warping (at temperature 1 if T is 0).
      eta: transfer strength, a Python number or a scalar array; at 0 p_hat is p, bit for bit. The sign of a
        device array is not checked.
      temperature: T, a Python number; eta * (q - p) is added to z / T. 0 is greedy: both results are point masses.
      tail: which tokens are left alone, "teacher" or "augmented".
      alpha: a token is in the tail below alpha times the largest probability; in [0, 1].

    Returns:
      (p, p_hat), the target's distribution and the retrieval-augmented one, both float32 [..., V].

    Raises:
      ValueError: unknown tail, eta negative, not finite or not a scalar, temperature neither 0 nor a finite number
        of at least MIN_TEMPERATURE, alpha outside [0, 1], or shapes that differ.
    """
    if tail not in TAIL_RULES:
        raise ValueError(f"tail must be one of {', '.join(TAIL_RULES)}, got {tail!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if jnp.ndim(eta) != 0:
        raise ValueError(f"eta must be a scalar, got shape {jnp.shape(eta)}")
    if not isinstance(eta, jax.Array) and not 0 <= eta < math.inf:
        raise ValueError(f"eta must be a finite number of at least 0, got {eta}")
    if jnp.shape(target_logits) != jnp.shape(draft_probs):
        raise ValueError(
            f"target_logits and draft_probs must have one shape [..., V], "
            f"got {jnp.shape(target_logits)} and {jnp.shape(draft_probs)}"
        )
    greedy = temperature == 0
    logits = scale_logits(target_logits, temperature)
    q = jnp.asarray(draft_probs, jnp.float32)
    mixed = _mix(logits, q, eta=eta, tail=tail, alpha=alpha)
    p = _distribution(logits, greedy=greedy)
    return p, jnp.where(eta == 0, p, _distribution(mixed, greedy=greedy))


def _mix(logits: jax.Array, q: jax.Array, *, eta: float | jax.Array, tail: str, alpha: float) -> jax.Array:
    """Returns logits [..., V] whose softmax is p_hat; logits [..., V] are z / T."""
    transfer = eta * (q - jax.nn.softmax(logits))
    if tail == "teacher":
        return logits + jnp.where(q >= alpha * q.max(-1, keepdims=True), transfer, 0.0)
    mixed = logits + transfer
    # p on the scale of the mixed logits: there exp(x - logsumexp(mixed)) is p_hat for mixed and p for target.
    target = jax.nn.log_softmax(logits) + jax.nn.logsumexp(mixed, axis=-1, keepdims=True)
    return jnp.where(mixed < mixed.max(-1, keepdims=True) + jnp.log(alpha), target, mixed)


def _distribution(logits: jax.Array, *, greedy: bool) -> jax.Array:
    if greedy:
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=jnp.float32)
    return jax.nn.softmax(logits)
