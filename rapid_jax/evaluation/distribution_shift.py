"""How far each published verification rule leaves the target, measured on the models' own distributions.

The target's p and the drafter's q are computed at every token of answers (teacher-forced), and for each tail rule and
each residual the exact law of the emitted token follows from them, without sampling: its total variation from p and
from p_hat, and the probability that a drafted token is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.cache import ContextCache, TailCache
from models.decoder import Decoder, hidden_states, output_logits
from rapid_jax.config.speculation import RESIDUALS, TAIL_RULES
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import Warping, warp_logits
from rapid_jax.engine import Document, Engine
from rapid_jax.engine.batch import plan_batch, start_batch
from rapid_jax.evaluation.benchmarks.base import Item
from rapid_jax.verification import output_distribution, retrieval_augmented_target


def answer_logits(
    decoder: Decoder, params: dict, context: ContextCache, tail: TailCache, tokens: jax.Array
) -> jax.Array:
    """float32 logits [B,T,V] behind each of the tokens [B,T], which follow what the caches hold."""
    positions = next_positions(tokens.shape[1], context, tail)
    hidden, _ = hidden_states(decoder, params, tokens, positions, context, tail)
    return output_logits(decoder, params, hidden)


def rule_figures(
    target_logits: jax.Array, draft_logits: jax.Array, *, eta: float, temperature: float, alpha: float = 0.1
) -> dict[tuple[str, str], dict[str, jax.Array]]:
    """For each (tail, residual) the figures at every position, float32 [T].

    Args:
      target_logits, draft_logits: [T,V], both before warping.
      eta: transfer strength.
      temperature: of target and drafter alike; above 0.
      alpha: where the tail begins.

    Returns:
      Total variation of the emitted token's law from p and from p_hat, that of p_hat from p, and the probability that
      the drafted token is accepted.
    """
    q = jax.nn.softmax(warp_logits(draft_logits, Warping.of(temperature)))
    found = {}
    for tail in TAIL_RULES:
        p, p_hat = retrieval_augmented_target(
            target_logits, q, eta=eta, temperature=temperature, tail=tail, alpha=alpha
        )
        for residual in RESIDUALS:
            out = output_distribution(q, p, p_hat, residual=residual)
            found[tail, residual] = {
                "from_p": _total_variation(out, p),
                "from_p_hat": _total_variation(out, p_hat),
                "p_hat_from_p": _total_variation(p_hat, p),
                "acceptance": jnp.minimum(q, p_hat).sum(-1),
            }
    return found


def _total_variation(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.abs(a - b).sum(-1) / 2


def measure(engine: Engine, document: Document, item: Item, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for every rule: its figures, averaged over the tokens of the plain target's answer to an item.

    Args:
      where: fields that every record carries.
    """
    temperature = engine.config.sampling.temperature or 1.0
    eta, alpha = engine.config.speculation.eta, engine.config.speculation.alpha
    answer = document.ask(item.question, "lc", max_new_tokens=item.max_new_tokens).token_ids
    limit = {"max_new_tokens": item.max_new_tokens, "length_rule": "none"}
    batch = plan_batch(engine.session, document.request([item.question], "rapid", [item.retrieval_query], limit))
    started = start_batch(engine.session, batch)
    state, (draft_params, draft_context) = started.state, started.drafting.model
    newest, last = (hosts.fetch(tokens)[0].tolist() for tokens in (state.newest, state.last_tokens))
    target, drafter = engine.target, engine.drafter
    z = _logits(engine, target.decoder, target.params, started.context, state.target_tail, [*newest, *answer])
    z_draft = _logits(engine, drafter.decoder, draft_params, draft_context, state.drafter_cache, [*last, *answer])
    z, z_draft = z[: len(answer)], z_draft[1 : len(answer) + 1]
    vocabulary = min(z.shape[-1], z_draft.shape[-1])
    found = rule_figures(z[:, :vocabulary], z_draft[:, :vocabulary], eta=eta, temperature=temperature, alpha=alpha)
    for (tail, residual), figures in found.items():
        means = {name: float(jnp.mean(values)) for name, values in figures.items()}
        yield {**where, "tail": tail, "residual": residual, "eta": eta, "temperature": temperature, **means}


def _logits(
    engine: Engine, decoder: Decoder, params: dict, context: ContextCache, tail: TailCache, tokens: Sequence[int]
) -> jax.Array:
    padded = np.zeros((1, token_bucket(len(tokens))), np.int32)
    padded[0, : len(tokens)] = tokens
    args = (
        params,
        context,
        tail,
        hosts.put(padded, None if engine.session.mesh is None else NamedSharding(engine.session.mesh, P())),
    )
    logits = hosts.fetch(engine.session.programs.get(answer_logits, (decoder,), args)(*args))
    return jnp.asarray(logits[0])  # small operations that span hosts are slow, and can deadlock on CPU
