"""Embeddings of RSICD without training: ridge regression from the words of a caption to a picture's features.

Pictures and words are real, and the fit takes seconds, so that what is counted of ranks rests on more than
random numbers.
"""

from collections import Counter
from pathlib import Path

import numpy as np

LAMBDA = 300.0
WORDS = 2000


def ridge_embeddings(
    folder: Path, split: str = "test"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return unit vectors of pictures [N,F] and captions [5N,F], each caption's picture, and the captions.

    `folder` has VSE++'s layout of files with one row a picture and five captions each.
    """
    images, captions = _read(folder, "train")
    names = [
        word
        for word, _ in Counter(word for line in captions for word in set(line.split())).most_common(WORDS)
    ]
    place = {word: row for row, word in enumerate(names)}
    words, mean = _bags(captions, place), images.mean(axis=0)
    target = np.repeat(_unit(images - mean), 5, axis=0)
    gram = words.T @ words + LAMBDA * np.eye(len(names), dtype=np.float32)
    matrix = np.linalg.solve(gram.astype(np.float64), (words.T @ target).astype(np.float64)).astype(
        np.float32
    )
    images, captions = _read(folder, split)
    return (
        _unit(images - mean),
        _unit(_bags(captions, place) @ matrix),
        np.arange(len(captions)) // 5,
        captions,
    )


def _read(folder: Path, split: str) -> tuple[np.ndarray, list[str]]:
    captions = (folder / f"{split}_caps.txt").read_text(encoding="utf-8").lower().split("\n")
    images = np.load(folder / f"{split}_ims.npy").astype(np.float32)
    return images, captions[: 5 * len(images)]


def _bags(captions: list[str], place: dict[str, int]) -> np.ndarray:
    bags = np.zeros((len(captions), len(place)), np.float32)
    for row, line in enumerate(captions):
        bags[row, [place[word] for word in set(line.split()) if word in place]] = 1
    return bags


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
