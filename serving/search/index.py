"""Exact search: the k best of all embeddings, found by one matrix product for each block of queries."""

from collections.abc import Callable, Sequence

import numpy as np

QUERY_BLOCK = 256


class Index:
    """Search embeddings for the k best of each query, exactly.

    `similarity` is a function from queries [Q,D] and embeddings [N,D] to scores [Q,N]; higher is better.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        ids: Sequence[str],
        similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> None:
        if len(embeddings) != len(ids):
            raise ValueError(
                f"expected one id per embedding, got {len(embeddings)} embeddings and {len(ids)} ids"
            )
        self.embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)  # [N,D]
        self.ids = np.asarray(ids)
        self._similarity = similarity

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores [Q,k] and ids [Q,k] of the k best for each query [Q,D], best first.

        Equal scores keep the order of the index. A `k` above the size of the index is reduced to that size.
        """
        k = min(k, len(self.ids))
        scores = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=self.ids.dtype)
        for start in range(0, len(queries), QUERY_BLOCK):
            block = self._similarity(queries[start : start + QUERY_BLOCK], self.embeddings)  # [q,N]
            for row, own in enumerate(np.asarray(block), start=start):
                best = _best(own, k)
                scores[row], ids[row] = own[best], self.ids[best]
        return scores, ids


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest `scores` [N], best first; of equal ones the first are taken."""
    if not k:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    among = np.flatnonzero(scores >= least)
    return among[np.argsort(-scores[among], kind="stable")[:k]]
