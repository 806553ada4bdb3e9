"""The model's own dtype: matrices, keys and values as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from models.formats.base import Array, Matrix, dot


class PlainWeights:
    """A matrix is one array "weight" [out..., in...]."""

    name = ""

    def check(self, dtype: np.dtype) -> None:
        """Goes with every dtype."""

    def arrays(self, matrix: Matrix, dtype: Any) -> dict[str, Array]:
        return {"weight": Array(matrix.axes, matrix.shape, dtype, nn.initializers.normal(matrix.std))}

    def holds(self, module: Mapping[str, Any]) -> bool:
        return set(module) <= {"weight", "bias"}

    def product(self, x: jax.Array, arrays: Mapping[str, jax.Array], matrix: Matrix, dtype: Any) -> jax.Array:
        return dot(x, arrays["weight"], matrix, dtype)

    def keep(self, x: jax.Array, targets: Mapping[str, jax.ShapeDtypeStruct], outputs: int) -> dict[str, jax.Array]:
        return {"weight": x}

    def bytes_per_weight(self, itemsize: int) -> float:
        return itemsize


class PlainKV:
    """Nothing is rounded and nothing has a scale."""

    name = ""
    stored = None

    @staticmethod
    def quantize_layer(k: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        return dict(k=k, v=v)

    def key_basis(self, head_dim: int) -> None:
        return None

    def bytes_per_head(self, head_dim: int, itemsize: int) -> float:
        return head_dim * itemsize


WEIGHTS = PlainWeights()
KV = PlainKV()
