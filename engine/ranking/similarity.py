"""Scores of images and captions from embeddings, in NumPy, which multiplies faster than Paddle on a CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from config.machine.threads import for_each
from engine.ranking.rounded import rounded_products
from engine.runtime import choose_threads
from models.kernels.mkl import multiply_on_one_thread

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]

_PIECE_ROWS = 256  # rows of a product that one thread makes at a time
_PIECE_BYTES = 256 << 10  # well inside the second-level cache of one core


def similarity_of(measure: str) -> Similarity:
    """Return the function of `measure`, "cosine" or "order"; raise ValueError for another."""
    similarities = {"cosine": inner_products, "order": order_similarity}
    if measure not in similarities:
        raise ValueError(f"unknown measure {measure!r}; expected one of {', '.join(similarities)}")
    return similarities[measure]


def inner_products(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the inner products [I,T] of `images` [I,D] and `texts` [T,D]: cosines of normalised vectors.

    Those of float32 vectors are rounded once (`rounded`); others are added up in their own precision, a piece
    of rows on one thread, so that the rounding does not depend on the number of threads.
    """
    rounded = np.result_type(images, texts) == np.float32
    return _in_pieces(images, texts, _round_piece if rounded else _sum_piece, for_each)


def inner_products_on_one_thread(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the same numbers as `inner_products`, computed on the calling thread alone."""
    rounded = np.result_type(images, texts) == np.float32
    return _in_pieces(images, texts, _round_piece if rounded else _sum_piece, _one_by_one)


# For a similarity, the function that returns the same numbers on the calling thread alone.
ON_ONE_THREAD: dict[Similarity, Similarity] = {
    inner_products: inner_products_on_one_thread,
}


def _in_pieces(images: np.ndarray, texts: np.ndarray, multiply: Callable, each: Callable) -> np.ndarray:
    products = np.empty((len(images), len(texts)), np.result_type(images, texts))
    pieces = [slice(start, start + _PIECE_ROWS) for start in range(0, len(images), _PIECE_ROWS)]
    each(lambda rows: multiply(images[rows], texts, products[rows]), pieces)
    return products


def _one_by_one(work: Callable[[slice], None], pieces: list[slice]) -> None:
    for piece in pieces:
        work(piece)


def _round_piece(images: np.ndarray, texts: np.ndarray, out: np.ndarray) -> None:
    out[:] = rounded_products(images, texts)


def _sum_piece(images: np.ndarray, texts: np.ndarray, out: np.ndarray) -> None:
    multiply_on_one_thread(images, texts.T, out)


def order_similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return -||max(0, text - image)|| [I,T] of `images` [I,D] and `texts` [T,D] (arXiv 1511.06361, eq. 2).

    The work is done in pieces that fit the processor's cache, on all threads of the runtime.
    """
    scores = np.empty((len(images), len(texts)), np.result_type(images, texts))
    threads = choose_threads()
    with ThreadPoolExecutor(threads) as pool:
        shares = zip(np.array_split(images, threads), np.array_split(scores, threads), strict=True)
        list(pool.map(lambda share: _fill_order_similarity(share[0], texts, share[1]), shares))
    return scores


def _fill_order_similarity(images: np.ndarray, texts: np.ndarray, scores: np.ndarray) -> None:
    size = max(1, _PIECE_BYTES // texts[0].nbytes)
    buffer = np.empty((min(size, len(texts)), texts.shape[1]), scores.dtype)
    for start in range(0, len(texts), size):
        piece = texts[start : start + size]
        excess = buffer[: len(piece)]  # [P,D]
        for image, row in zip(images, scores, strict=True):
            # max(text, image) - image is max(0, text - image), but NumPy compares faster with an array
            np.subtract(np.maximum(piece, image, out=excess), image, out=excess)
            row[start : start + size] = (excess[:, None, :] @ excess[:, :, None])[:, 0, 0]
    np.negative(np.sqrt(scores, out=scores), out=scores)


def check_magnitude(what: str, embeddings: np.ndarray) -> None:
    """Raise ValueError that names a row of `embeddings` which is not finite or whose scores may overflow."""
    # |a b| <= |a| |b| and |a - b| <= |a| + |b|: below this bound no sum in a score can overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
        bad = np.flatnonzero(~(squares < np.finfo(squares.dtype).max / 8))
    if len(bad):
        finite = np.isfinite(embeddings[bad[0]]).all()
        problem = "values too large to multiply" if finite else "a value that is not finite"
        raise ValueError(f"expected finite embeddings, got {problem} in {what} embedding {bad[0]}")
