"""Ridge regression from a caption's bag of words to its image's features: a floor for what networks reach."""

from dataclasses import dataclass

import numpy as np


def bags_of_words(token_ids: np.ndarray, text_len: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return float32 [B,V], 1 where a word occurs among the first `text_len[b]` ids of caption b.

    `token_ids` is int64 [B,T], `text_len` int64 [B] and V is `vocab_size`.
    """
    bags = np.zeros((len(token_ids), vocab_size), np.float32)
    rows, places = np.nonzero(np.arange(token_ids.shape[1]) < text_len[:, None])
    bags[rows, token_ids[rows, places]] = 1
    return bags


@dataclass(frozen=True)
class BagOfWords:
    """The linear map of a bag of words: features = `mean_features` + (bag - `mean_bag`) `weights`.

    `weights` is float64 [V,F], `mean_bag` [V] and `mean_features` [F].
    """

    weights: np.ndarray
    mean_bag: np.ndarray
    mean_features: np.ndarray

    def predict(self, bags: np.ndarray) -> np.ndarray:
        """Return the features, float64 [N,F], that `bags` [N,V] let one expect."""
        return bags @ self.weights + (self.mean_features - self.mean_bag @ self.weights)


class RidgeRegression:
    """The sums of a ridge regression (Hoerl and Kennard 1970) over pairs that are added block by block.

    It minimises ||Y - X W||^2 + penalty ||W||^2 over W [V,F], where X [N,V] are the bags of words and Y [N,F]
    the features, each less its mean. Memory grows with V (V + F), not with N.
    """

    def __init__(self, vocab_size: int, feature_dim: int) -> None:
        self.count = 0
        self._bags = np.zeros(vocab_size)
        self._features = np.zeros(feature_dim)
        self._gram = np.zeros((vocab_size, vocab_size))
        self._cross = np.zeros((vocab_size, feature_dim))

    def add(self, bags: np.ndarray, features: np.ndarray) -> None:
        """Add the pairs of `bags` float32 [N,V] and `features` float32 [N,F]."""
        self.count += len(bags)
        self._bags += bags.sum(axis=0, dtype=np.float64)
        self._features += features.sum(axis=0, dtype=np.float64)
        self._gram += bags.T @ bags
        self._cross += bags.T @ features

    def fit(self, penalty: float) -> BagOfWords:
        """Return the map of the least penalised error; raise ValueError unless `penalty` is above 0."""
        if not penalty > 0:
            raise ValueError(f"penalty: expected a number above 0, got {penalty}")
        mean_bag, mean_features = self._bags / self.count, self._features / self.count
        gram = self._gram - self.count * np.outer(mean_bag, mean_bag)
        gram[np.diag_indices_from(gram)] += penalty
        cross = self._cross - self.count * np.outer(mean_bag, mean_features)
        return BagOfWords(np.linalg.solve(gram, cross), mean_bag, mean_features)
