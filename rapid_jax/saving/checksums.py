"""Short texts that tell arrays apart, computed where the arrays lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from models import hosts
from models.formats import LAYOUTS
from models.language_model import LanguageModel
from models.loading import as_loaded

_STEP, _SPREAD = 16_777_619, 2_654_435_761  # odd, so that no place is lost modulo 2**32


def checksum(x: jax.Array) -> str:
    """16 hex digits of an array's bits: their sum modulo 2**32, and the same weighed by their places.

    It does not depend on how the array is split over devices.
    """
    plain, weighed = np.asarray(hosts.fetch(_sums(x)), np.uint32).tolist()
    return f"{plain:08x}{weighed:08x}"


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    else:
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.int32), jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(x.ndim):
        place = place * jnp.uint32(_STEP) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    weights = place * jnp.uint32(_SPREAD) | jnp.uint32(1)
    return jnp.stack([jnp.sum(bits, dtype=jnp.uint32), jnp.sum(bits * weights, dtype=jnp.uint32)])


def weights_fingerprint(model: LanguageModel) -> str:
    """SHA-256, in hex digits, of a model's configuration, its formats and the checksums of all of its weights.

    It does not depend on the order in which their numbers lie.
    """
    decoder = model.decoder
    weights = "" if decoder.weights in LAYOUTS else decoder.weights
    told = dict(config=dataclasses.asdict(model.config), dtype=np.dtype(decoder.dtype).name, weights=weights)
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for path, weight in as_loaded(model.params, model.config):
        name = "".join(f"[{part!r}]" for part in path)
        digest.update(f"{name} {weight.shape} {weight.dtype} {checksum(weight)}\n".encode())
    return digest.hexdigest()
