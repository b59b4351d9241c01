"""What searches vectors that are too many for an exact engine: an inverted file with 8 bits a number.

It is saved beside the vectors and never changed: rows that come later are searched beside it, and rows that
go are left out. (FAISS 1.15.1's graphs cannot remove a row, and `IndexIDMap2` over an inverted file gives
wrong ids after a removal, without an error.)
"""

from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.whole import replacing
from config.progress import ShowProgress, no_progress
from serving.index.engines.exact import Proposing
from serving.index.engines.half import faiss_package, search_among
from serving.index.engines.saved import Saved, check_file, file_check
from serving.index.vectors import blocks_of, damaged

LISTS = "lists.faiss"
WIDEST_MARGIN = 2.0  # by which cosines can differ: that of an index which was built without a margin
_TRAIN_ROWS = 64  # a list, that k-means is shown
_MOST_NUMBERS = 4 << 20  # scores of centres, or numbers of lists, that are held at a time


class InvertedFile(Proposing):
    """An approximate engine: rows in lists around centres, 8 bits a number (FAISS, IVF with SQ8).

    A query looks into the lists whose centres score at most `margin` less than the best, and into `probes` of
    them at most: few where it is near one centre, many where it stands between them. Where few rows are
    allowed, it looks into as many more, so that it sees as many rows.
    """

    error = None

    def __init__(self, index, probes: int, margin: float) -> None:
        faiss = faiss_package()

        self._index, self.lists = index, index.nlist
        self.probes, self.margin = min(probes, index.nlist), margin
        centres = faiss.rev_swig_ptr(faiss.downcast_index(index.quantizer).get_xb(), index.nlist * index.d)
        self._centres = centres.reshape(index.nlist, index.d)

    @property
    def memory(self) -> int:
        """Return the bytes that are held: codes, row numbers and centres."""
        return self._index.ntotal * (self._index.code_size + 8) + self._index.nlist * self._index.d * 4

    def propose(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        size = max(1, _MOST_NUMBERS // self.lists)
        found = [
            self._propose(queries[start : start + size], k, allowed) for start in range(0, len(queries), size)
        ]
        return found[0] if len(found) == 1 else tuple(map(np.concatenate, zip(*found, strict=True)))

    def _propose(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if allowed is not None:
            return self._propose_of(allowed[: self._index.ntotal], queries, k)
        scores, places, counts = self._near(queries)
        # FAISS looks into as many lists for each query, and passes over those whose number is -1.
        shape = len(queries), self.probes
        lists, products = np.full(shape, -1), np.zeros(shape, np.float32)
        which, chosen = np.divmod(places, self.lists)
        slots = which * self.probes + np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        lists.put(slots, chosen)
        products.put(slots, scores.take(places))
        self._index.nprobe = self.probes
        return _there(*self._index.search_preassigned(queries, k, lists, products))

    def _propose_of(self, allowed: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = faiss_package()

        most = self.looked_into(queries).max()
        probes = min(self.lists, int(np.ceil(most / max(float(allowed.mean()), 1e-3))))
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits.size, faiss.swig_ptr(bits))
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        return _there(*search_among(self._index, queries, k, parameters))

    def looked_into(self, queries: np.ndarray) -> np.ndarray:
        """Return into how many lists each of `queries` [Q,D] looks: int64 [Q]."""
        return self._near(queries)[2]

    def _near(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all centres' scores [Q,L], the places of the near ones, and how many each query has [Q].

        Places [n] are counted through all rows of the scores.
        """
        scores = queries @ self._centres.T
        near = scores >= scores.max(axis=1, keepdims=True) - np.float32(self.margin)
        places = np.flatnonzero(near)
        counts = np.bincount(places // self.lists, minlength=len(queries))
        if counts.max() > self.probes:
            for query in np.flatnonzero(counts > self.probes):
                near[query] = False
                near[query, np.argpartition(scores[query], -self.probes)[-self.probes :]] = True
            places, counts = np.flatnonzero(near), np.minimum(counts, self.probes)
        return scores, places, counts


def _there(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `scores` [Q,k] and `rows` [Q,k] as `Proposing.propose` does, where FAISS has row -1 for none."""
    scores[rows < 0] = -np.inf
    return scores, rows


def build_lists(folder: Path, vectors: np.ndarray, show: ShowProgress = no_progress) -> Saved:
    """Write an inverted file, of `lists_for` lists, of float32 `vectors` [N,D]; raise OSError."""
    faiss = faiss_package()

    lists = lists_for(len(vectors))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(0)
    wanted = min(len(vectors), lists * _TRAIN_ROWS)
    show("training centres", 0, wanted)
    index.train(vectors[np.sort(random.choice(len(vectors), wanted, replace=False))])
    for part in blocks_of(*vectors.shape):
        index.add(np.ascontiguousarray(vectors[part]))
        show("filling lists", part.stop, len(vectors))
    with replacing(folder / LISTS) as draft:
        try:
            faiss.write_index(index, str(draft))
        except RuntimeError as error:  # FAISS's only way to say that the disk is full
            raise OSError(f"FAISS could not write its file ({str(error).splitlines()[0][:120]})") from error
    return Saved(
        "lists", len(vectors), file_check(folder / LISTS), {"lists": lists, "probes": lists, "margin": 0.0}
    )


def load_lists(folder: Path, saved: Saved) -> InvertedFile:
    """Return the engine of the lists in `folder`; raise UserError where they are not what was written."""
    faiss = faiss_package()

    check_file(folder / LISTS, saved)
    try:
        index = faiss.read_index(str(folder / LISTS))
    except RuntimeError as error:
        raise damaged(folder / LISTS, f"FAISS cannot read it ({cut(error, 80)})") from error
    if index.ntotal != saved.rows:
        raise damaged(folder / LISTS, f"{index.ntotal:,} rows, expected {saved.rows:,}")
    parameters = saved.parameters
    return InvertedFile(index, parameters["probes"], parameters.get("margin", WIDEST_MARGIN))


def lists_for(count: int) -> int:
    """Return the number of lists for `count` rows: the power of two near twice the root, at most 65,536.

    More would be smaller, so that a query sees fewer rows, but centres take time to train and compare.
    """
    return int(2 ** np.clip(np.round(np.log2(max(count, 1)) / 2 + 1), 2, 16))


def check_memory(count: int, dimension: int, memory: int) -> None:
    """Raise UserError where lists of `count` rows of D numbers do not fit into `memory` bytes."""
    needed = count * (dimension + 8) + lists_for(count) * dimension * 4
    if needed > memory:
        raise UserError(
            f"{count:,} vectors of {dimension} numbers need {needed / 1e9:.3g} GB even with 8 bits a number, "
            f"and {memory / 1e9:.3g} GB are allowed: allow more by --memory, or name a Milvus by its address"
        )
