"""A small encoder with the methods of a bundle, and vectors for the tests of indexes."""

import hashlib
from pathlib import Path

import numpy as np

from serving.index.items import Item


def unit_vectors(count: int, dimension: int = 24, seed: int = 0) -> np.ndarray:
    """Return random vectors [N,D] of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def items_named(count: int, start: int = 0) -> list[Item]:
    """Return items `p0`, `p1`, ... with a number, a colour and a list as metadata."""
    colours = ("red", "green", "blue")
    return [
        Item(
            f"p{number}",
            f"picture {number}",
            {"number": number, "colour": colours[number % 3], "tags": [colours[number % 3], "all"]},
        )
        for number in range(start, start + count)
    ]


class WordEncoder:
    """The vector of a sentence, or of a picture's file name, is the sum of random vectors of its words."""

    def __init__(self, version: str = "one", dimension: int = 24, measure: str = "cosine") -> None:
        self.identity = hashlib.sha256(version.encode()).hexdigest()
        self.dimension, self.measure = dimension, measure
        self.description = f"words, version {version}"
        self.encoded = 0

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Return the vectors [N,D] of sentences."""
        self.encoded += len(texts)
        vectors = np.stack([sum(map(self._word, text.lower().split())) for text in texts])
        if self.measure == "order":
            return np.abs(vectors).astype(np.float32)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_features(self, features: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Return the vectors [N,D] of features [N,F], or of `counts` [N] regions each [N,R,F]."""
        if counts is not None:
            features = features.sum(axis=1) / counts[:, None]
        turned = features @ np.random.default_rng(7).standard_normal((features.shape[1], self.dimension))
        self.encoded += len(features)
        return (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)

    def encode_pictures(self, paths: list[Path]) -> np.ndarray:
        """Return the vectors [N,D] of picture files."""
        return self.encode_texts([Path(path).stem.replace("_", " ") for path in paths])

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256((self.identity + word).encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.dimension)
