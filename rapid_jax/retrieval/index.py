"""Nearest chunks by inner product."""

import faiss
import numpy as np


class InnerProductIndex:
    """Exact search over the vectors of one document (FAISS `IndexFlatIP`).

    Args:
      vectors: float32 [chunks, dim].
    """

    def __init__(self, vectors: np.ndarray):
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def __len__(self) -> int:
        return self._index.ntotal

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and indices of the `k` nearest chunks, best first: float32 [m], int64 [m] with m = min(k, chunks)."""
        scores, indices = self._index.search(np.ascontiguousarray(query[None], np.float32), min(k, len(self)))
        return scores[0], indices[0]
