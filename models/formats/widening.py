"""Keys and values as a cache keeps them, in floats again: for a product, or as what they were."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from models.formats import KV, PLANE, kv_format
from models.formats.base import KVFormat


def widen(x: jax.Array, dtype: Any, rest: jax.Array | None = None) -> jax.Array:
    """Keys or values as a cache keeps them -> the floats that a product reads, their factors left out.

    Args:
      x: [...,H].
      dtype: of the product.
      rest: the lower plane, where there is one. The sum of both is exact: it has eight bits.
    """
    if _narrow(x.dtype) is None:
        return x
    return x.astype(dtype) if rest is None else x.astype(dtype) + rest.astype(dtype) / PLANE


def restore(x: jax.Array, dtype: Any, *, scale: jax.Array | None = None, rest: jax.Array | None = None) -> jax.Array:
    """Values as a cache keeps them -> floats of `dtype`. Keys stay in the basis of their format.

    Args:
      x: [...,S,H].
      dtype: see above.
      scale: [...,S], a factor for each slot; None is of numbers that were never narrowed.
      rest: the lower plane [...,S,H].
    """
    return x.astype(dtype) if scale is None else (widen(x, jnp.float32, rest) * scale[..., None]).astype(dtype)


def restore_keys(x: jax.Array, dtype: Any, **stored: jax.Array | None) -> jax.Array:
    """As `restore`, and back in the basis of attention's queries."""
    kind = _narrow(x.dtype)
    basis = None if kind is None else kind.key_basis(x.shape[-1])
    return restore(x, dtype, **stored) if basis is None else times(restore(x, jnp.float32, **stored), basis.T, dtype)


def in_basis_of(k: jax.Array, q: jax.Array) -> jax.Array:
    """Queries [...,H] in the basis in which a cache keeps these keys [...,H]; their products stay what they are."""
    kind = _narrow(k.dtype)
    basis = None if kind is None else kind.key_basis(q.shape[-1])
    return q if basis is None else times(q, basis, q.dtype)


def times(x: jax.Array, basis: Any, dtype: Any) -> jax.Array:
    """X [...,H] times a basis [H,H], computed in float32 -> [...,H] in `dtype`."""
    return jnp.matmul(x.astype(jnp.float32), basis, precision=jax.lax.Precision.HIGHEST).astype(dtype)


def _narrow(dtype: Any) -> KVFormat | None:
    """A format whose numbers have this dtype; None is of floats."""
    return next((kind for name in KV if name and (kind := kv_format(name)).stored == dtype), None)
