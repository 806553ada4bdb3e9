"""Where a document's tokens lie in a context cache whose slots are striped over shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def token_slots(chunks: Sequence[int], shards: int, capacity: int) -> np.ndarray:
    """The slot of every token that a prefill writes, padding included (`models.cache.append_chunk`).

    With chunks of 4 and 4 tokens over two shards of 4 slots, tokens 0 1 | 4 5 lie on the first and 2 3 | 6 7 on the
    second.

    Args:
      chunks: tokens of each forward of the prefill, in order.
      shards: n, of the mesh axis `context`; 1 without a mesh.
      capacity: S, slots of all shards together.

    Returns:
      int32 [sum of chunks], global slots: shard c holds [c * S / n, (c + 1) * S / n).

    Raises:
      ValueError: n does not divide a chunk or the capacity, or there are more tokens than slots.
    """
    for size, name in ((capacity, "a context"), *((chunk, "a chunk") for chunk in chunks)):
        if size % shards:
            raise ValueError(f"{name} of {size} tokens does not split over {shards} shards; give a multiple")
    if sum(chunks) > capacity:
        raise ValueError(f"chunks of {sum(chunks)} tokens do not fit a context of {capacity} slots")
    places, before = [], 0
    for chunk in chunks:
        shard, local = np.divmod(np.arange(chunk), chunk // shards)
        places.append(shard * (capacity // shards) + before + local)
        before += chunk // shards
    return np.concatenate([np.zeros(0, int), *places]).astype(np.int32)
