"""What searches many vectors exactly by float16 codes of all rows (FAISS, `SQfp16`).

The codes are saved beside the vectors, of which they are a copy, and load without computing. They are never
changed: rows that come later are searched beside them, and rows that go are left out.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import pairwise
from operator import xor
from pathlib import Path
from types import ModuleType

import numpy as np

from config.errors import UserError
from config.files.whole import replacing
from config.progress import ShowProgress, no_progress
from serving.index.engines.exact import Proposing
from serving.index.engines.saved import Saved, contents_check, file_check
from serving.index.vectors import blocks_of, damaged

CODES = "codes.f16"
_MULTIPLIED = 8  # from so many queries on, a product of matrices takes less time than a scan for each
_DECODED_ROWS = 512  # that are decoded and multiplied at a time: two megabytes stay in a core's cache
_BELOW_SIGN = np.int32(0b111 << 28)  # where the sign of an int16, shifted by 13, is repeated
_SINGLE = 2.0**-24
_ALIGNED = 4  # rows of float16: so many are whole words of 64 bits, whatever their width


def faiss_package() -> ModuleType:
    """Return FAISS, which starts slowly and only large collections need; raise UserError without it."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UserError(
            "this index needs the package faiss-cpu: pip install -r requirements-index.txt"
        ) from error
    return faiss


def search_among(
    index: object, queries: np.ndarray, k: int, parameters: object
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and rows of a FAISS index's search with `parameters`, such as which rows are allowed.

    `faiss.contrib.torch_utils`, which pytorch-metric-learning imports, puts a search without parameters in
    the place of FAISS's own, and keeps that under another name.
    """
    own = getattr(index, "search_numpy", index.search)
    return own(queries, k, params=parameters)


class HalfPrecision(Proposing):
    """An engine that holds all rows as float16 in memory, half of what they take as float32 (FAISS, SQfp16).

    The rows are shared among threads. `error` is measured: the length of what rounding took off a row,
    and the rounding of the sums.
    """

    def __init__(self, shards: list, rounding: float, dimension: int) -> None:
        faiss = faiss_package()

        self._shards, self._starts = shards, np.cumsum([0, *(shard.ntotal for shard in shards)]).tolist()
        self.error = rounding + 2 * dimension * _SINGLE
        # Each shard has a thread of its own: FAISS must not start more.
        self._pool = ThreadPoolExecutor(len(shards), initializer=faiss.omp_set_num_threads, initargs=(1,))

    @property
    def memory(self) -> int:
        """Return the bytes that are held."""
        return sum(shard.ntotal * shard.code_size for shard in self._shards)

    def propose(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = faiss_package()
        if len(queries) >= _MULTIPLIED:
            return self._multiplied(queries, k, allowed)

        def look(number: int) -> tuple[np.ndarray, np.ndarray]:
            start, end = self._starts[number], self._starts[number + 1]
            parameters = None
            if allowed is not None:
                bits = np.packbits(allowed[start:end], bitorder="little")
                selector = faiss.IDSelectorBitmap(bits.size, faiss.swig_ptr(bits))
                parameters = faiss.SearchParameters(sel=selector)
            scores, rows = search_among(self._shards[number], queries, k, parameters)
            return np.where(rows < 0, -np.inf, scores), np.where(rows < 0, -1, rows + start)

        found = list(self._pool.map(look, range(len(self._shards))))
        scores, rows = _best(*_joined(found), k)
        order = np.argsort(-scores, axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _multiplied(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Propose for many queries together: all codes are read and decoded once, whatever Q is."""
        faiss = faiss_package()

        def look(number: int) -> tuple[np.ndarray, np.ndarray]:
            shard, start = self._shards[number], self._starts[number]
            codes = faiss.rev_swig_ptr(shard.codes.data(), shard.ntotal * shard.code_size)
            codes = codes.view(np.int16).reshape(shard.ntotal, -1)
            inside = None if allowed is None else allowed[start : start + shard.ntotal]
            scores, rows = _best_products(codes, queries, k, inside)
            return scores, np.where(rows < 0, -1, rows + start)

        found = list(self._pool.map(look, range(len(self._shards))))
        scores, rows = _best(*_joined(found), k)
        order = np.argsort(-scores, axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _best_products(
    codes: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k highest inner products [Q,k] of `queries` with float16 codes [N,D] and their rows.

    `codes` are the float16 numbers' bits as int16. Of each block of products, only those above a query's
    k-th so far are looked at: after the first blocks, these are few.
    """
    size = min(_DECODED_ROWS, len(codes))
    decoded = np.empty((size, codes.shape[1]), np.float32)
    kept = [np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1)]
    new: list[tuple[np.ndarray, ...]] = []  # query, product and row of each that may be among the best
    lowest, next_merge = np.full((len(queries), 1), -np.inf, np.float32), 0
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        products = queries @ decode_half(part, decoded[: len(part)]).T  # [Q,n]
        if allowed is not None:
            products[:, ~allowed[start : start + size]] = -np.inf
        which, where = np.nonzero(products > lowest)
        new.append((which, products[which, where], where + start))
        if start >= next_merge or start + size >= len(codes):  # each merge waits for twice as many rows
            kept, new = _merged(kept, new), []
            lowest, next_merge = kept[0].min(axis=1, keepdims=True), 2 * start + size
    return kept[0], kept[1]


def _merged(kept: list[np.ndarray], new: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Return the best products [Q,k] and rows [Q,k] among those `kept` and the lists of `new` ones."""
    count, k = kept[0].shape
    which, products, rows = (np.concatenate(parts) for parts in zip(*new, strict=True))
    which = np.concatenate([np.repeat(np.arange(count), k), which])
    products, rows = np.concatenate([kept[0].ravel(), products]), np.concatenate([kept[1].ravel(), rows])
    order = np.lexsort((-products, which))
    starts = np.searchsorted(which[order], np.arange(count))
    chosen = order[starts[:, None] + np.arange(k)]  # each query has its k kept ones at least
    return [products[chosen], rows[chosen]]


def decode_half(bits: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Write what the bits [n,D] of finite float16 numbers, as int16, stand for into float32 `decoded` [n,D].

    Sign, exponent and fraction move to their places in float32; there, the exponent is too low by the
    difference of the two formats' biases, 127 - 15. It takes half the time of NumPy's conversion, which goes
    number by number.
    """
    words = decoded.view(np.int32)
    np.copyto(words, bits)  # the sign fills the upper half
    np.left_shift(words, 23 - 10, out=words)
    np.bitwise_and(words, ~_BELOW_SIGN, out=words)
    return np.multiply(decoded, np.float32(2.0**112), out=decoded)


def _joined(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [Q,n] and rows [Q,n] of all parts beside each other."""
    return tuple(np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k highest of `scores` [Q,n] with their `rows` [Q,n], in any order."""
    if scores.shape[1] <= k:
        return scores, rows
    places = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    return np.take_along_axis(scores, places, axis=1), np.take_along_axis(rows, places, axis=1)


def build_half(folder: Path, vectors: np.ndarray, show: ShowProgress = no_progress) -> Saved:
    """Write the float16 codes of float32 `vectors` [N,D]; raise OSError, and UserError for huge numbers."""
    rounding = 0.0
    with replacing(folder / CODES) as draft:
        with open(draft, "wb") as file:
            for part in blocks_of(*vectors.shape):
                codes, lost = _as_half(vectors[part])
                rounding = max(rounding, lost)
                file.write(codes.data)
                show("writing codes", part.stop, len(vectors))
    if not np.isfinite(rounding):
        raise UserError("a vector has numbers that float16 cannot hold: build with --engine scan")
    return Saved("float16", len(vectors), file_check(folder / CODES), {"rounding": rounding})


def load_half(folder: Path, saved: Saved, dimension: int, threads: int) -> HalfPrecision:
    """Return the engine of the codes in `folder`; raise UserError where they are not what was written.

    Each thread reads its shard into the place where FAISS searches it, and adds up its check there: the codes
    are in memory once, and read once.
    """
    path, width = folder / CODES, 2 * dimension

    def read(rows: slice, memory: np.ndarray) -> int:
        with open(path, "rb") as file:
            file.seek(rows.start * width)
            if file.readinto(memory) != memory.size:
                raise damaged(path, "it is cut short")
        return contents_check(memory)

    try:
        size = path.stat().st_size
        if size != saved.rows * width:  # before memory is asked for
            raise damaged(path, f"it holds {size:,} bytes, expected {saved.rows * width:,}")
        shards, checks = _sharded(saved.rows, dimension, threads, read)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    if reduce(xor, checks, size) != saved.check:
        raise damaged(path, "its contents are not what was written")
    return HalfPrecision(shards, saved.parameters["rounding"], dimension)


def _as_half(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return float16 codes [N,D], and a bound, barely above it, of the length of what a row loses."""
    with np.errstate(over="ignore"):
        codes = vectors.astype(np.float16)
    lost = codes.astype(np.float32)
    lost -= vectors
    return codes, float(np.sqrt(np.einsum("nd,nd->n", lost, lost).max())) * (1 + 1e-3)


def _sharded(
    count: int, dimension: int, threads: int, fill: Callable[[slice, np.ndarray], int | None]
) -> tuple[list, list[int | None]]:
    """Return shards of `count` rows of float16 codes, and what `fill` returns for each.

    `fill` is called by threads with the rows of a shard and its memory, uint8 [bytes], which it writes.
    """
    faiss = faiss_package()
    cuts = (
        np.linspace(0, count // _ALIGNED, min(threads, max(1, count // _ALIGNED)) + 1).astype(int) * _ALIGNED
    )
    cuts[-1] = count

    def shard_of(cut: tuple[int, int]) -> tuple[object, int | None]:
        kind, rows = faiss.ScalarQuantizer.QT_fp16, slice(*cut)
        shard = faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)
        size = (rows.stop - rows.start) * shard.code_size
        shard.is_trained = True  # float16 has nothing to learn
        shard.codes.resize(size)
        shard.ntotal = rows.stop - rows.start
        return shard, fill(rows, faiss.rev_swig_ptr(shard.codes.data(), size))

    with ThreadPoolExecutor(threads) as pool:
        shards, filled = zip(*pool.map(shard_of, pairwise(cuts.tolist())), strict=True)
    return list(shards), list(filled)
