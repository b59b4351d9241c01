"""Codes of vectors with 8 bits a number, and how far a score by them may be off.

A number of a vector is the centre of its column, plus a whole number of steps; a step is that of the row
times the width of the column. The rest that this leaves of a row is measured when its codes are made: the
inner product of a query q with the vector is that with its code, give or take |q| times the length of the
rest (Cauchy-Schwarz).

The numbers of TILE rows lie together, column after column, so that one query is multiplied with them as they
lie in the file (serving/index/engines/integers.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.whole import replacing
from config.progress import ShowProgress, no_progress
from serving.index.engines.saved import Saved, contents_check, file_check
from serving.index.vectors import damaged

CODES = "codes.i8"
TILE = 2048  # rows
MOST_STEPS = 127  # from the centre, on either side
SINGLE = 2.0**-24  # unit roundoff of float32
_SAMPLED_ROWS = 16_384  # that show how wide the columns are
_ROWS_TOGETHER = 64  # that are encoded at a time: they stay in a core's cache
_SMALLEST = 1e-30  # what numbers near the smallest of float32 may lose at most
_LONGEST = 1e18  # of vectors: float32 holds products of two of them
_NARROWEST = 1 / 16  # of the usual width: a column that hardly varies needs no finer steps
_OF_ROWS = (np.float32, np.float32, np.int32, np.float32)  # steps, errors, sums and lengths


@dataclass(frozen=True)
class Codes:
    """Codes of N vectors: `numbers`, int8 [N*D], in tiles of `tile` rows, and what they stand for.

    Number j of row i is `centre[j] + steps[i] * widths[j] * n[i, j]`. `sums` and `lengths` are those of the
    numbers of each row. For a query of length 1, its float32 score by the vector itself is within `errors[i]`
    of the true score by its code.
    """

    centre: np.ndarray  # float32 [D]
    widths: np.ndarray  # float32 [D]
    steps: np.ndarray  # float32 [N]
    errors: np.ndarray  # float32 [N]
    sums: np.ndarray  # int32 [N]
    lengths: np.ndarray  # float32 [N]
    numbers: np.ndarray
    tile: int

    @property
    def memory(self) -> int:
        """Return the bytes that they take."""
        return sum(each.nbytes for each in vars(self).values() if isinstance(each, np.ndarray))

    def columns(self, start: int) -> np.ndarray:
        """Return the numbers, int8 [D,n], of the tile of rows that begins with row `start`."""
        count, dimension = min(self.tile, len(self.steps) - start), len(self.centre)
        return self.numbers[start * dimension : (start + count) * dimension].reshape(dimension, count)


def codes_of(vectors: np.ndarray) -> Codes | None:
    """Return codes of float32 `vectors` [N,D]; None where their numbers are too large for them."""
    centre, widths = _columns(vectors)
    parts = [_encoded(vectors[part], centre, widths) for part in _tiles(len(vectors), TILE)]
    *rows, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
    codes = Codes(centre, widths, *rows, numbers, TILE)
    return codes if np.isfinite(codes.errors).all() else None


def build_codes(folder: Path, vectors: np.ndarray, show: ShowProgress = no_progress) -> Saved:
    """Write the codes of float32 `vectors` [N,D]; raise OSError, and UserError for huge numbers."""
    centre, widths = _columns(vectors)
    rows = [np.empty(len(vectors), kind) for kind in _OF_ROWS]
    with replacing(folder / CODES) as draft:
        with open(draft, "wb") as file:
            for part in _tiles(len(vectors), TILE):
                *made, numbers = _encoded(vectors[part], centre, widths)
                for each, values in zip(rows, made, strict=True):
                    each[part] = values
                file.write(numbers.data)
                show("writing codes", part.stop, len(vectors))
            for each in (centre, widths, *rows):
                file.write(each.data)
    if not np.isfinite(rows).all():
        raise UserError("a vector has numbers that are too large for codes: build with --engine scan")
    return Saved("int8", len(vectors), file_check(folder / CODES), {"tile": TILE})


def load_codes(folder: Path, saved: Saved, dimension: int) -> Codes:
    """Return the codes in `folder`, mapped into memory; raise UserError unless they are what was written.

    Codes of an earlier version, which lie row after row, are put into tiles in memory.
    """
    path, count, tile = folder / CODES, saved.rows, saved.parameters.get("tile")
    if tile not in (None, TILE):
        raise damaged(path, f"its card says tiles of {tile} rows, expected {TILE}")
    of_rows = len(_OF_ROWS) if tile else 2
    wanted = count * dimension + 4 * (2 * dimension + of_rows * count)
    try:
        size = path.stat().st_size
        if size != wanted:
            raise damaged(path, f"it holds {size:,} bytes, expected {wanted:,}")
        content = np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    if contents_check(content) ^ size != saved.check:
        raise damaged(path, "its contents are not what was written")
    numbers, rest = content[: count * dimension], content[count * dimension :]
    sizes = [4 * dimension, 4 * dimension, *[4 * count] * of_rows]
    parts = np.split(rest, np.cumsum(sizes)[:-1])
    kinds = (np.float32, np.float32, *_OF_ROWS)
    arrays = [np.frombuffer(part.tobytes(), kind) for part, kind in zip(parts, kinds, strict=False)]
    if not all(np.isfinite(each).all() for each in arrays):  # words that have changed places keep their check
        raise damaged(path, "it holds NaN or infinity")
    if tile:
        return Codes(*arrays, numbers.view(np.int8), tile)
    rows = numbers.reshape(count, dimension)
    put = [_in_a_tile((rows[part] ^ 128).view(np.int8)) for part in _tiles(count, TILE)]
    return Codes(*arrays, *(np.concatenate(each) for each in zip(*put, strict=True)), TILE)


def _tiles(count: int, tile: int) -> Iterator[slice]:
    """Yield slices of `count` rows, a tile each."""
    for start in range(0, count, tile):
        yield slice(start, min(start + tile, count))


def _columns(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centres [D] and widths [D] of the columns, as a sample of rows shows them."""
    sample = vectors[:: -(-len(vectors) // _SAMPLED_ROWS)].astype(np.float64)
    centre = sample.mean(axis=0).astype(np.float32)
    spread = np.sqrt(np.square(sample - centre).mean(axis=0))
    usual = np.sqrt(np.square(spread).mean()) or 1.0
    return centre, np.maximum(spread, usual * _NARROWEST).astype(np.float32)


def _encoded(vectors: np.ndarray, centre: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return steps, errors, sums and lengths [n] of codes of float32 `vectors` [n,D], and numbers [n*D]."""
    count, dimension = vectors.shape
    steps, lost, lengths = np.empty((3, count))
    numbers = np.empty((count, dimension), np.int8)
    for start in range(0, count, _ROWS_TOGETHER):
        part = slice(start, start + _ROWS_TOGETHER)
        scaled = (vectors[part] - centre) / widths
        steps[part] = (np.abs(scaled).max(axis=1) / np.float32(MOST_STEPS)).astype(np.float32)
        scaled /= np.where(steps[part] > 0, steps[part], 1)[:, None].astype(np.float32)
        whole = np.clip(np.rint(scaled), -MOST_STEPS, MOST_STEPS)
        numbers[part] = whole
        scaled -= whole
        scaled *= widths
        lost[part], lengths[part] = _lengths(scaled) * steps[part], _lengths(vectors[part])
    # Sums of float32 products of D numbers differ from the true ones (Higham 2002, section 3.1), and so do
    # the few sums above, and those by which the score of a code is put together.
    rounding = (dimension + 48) * SINGLE * (lengths + np.linalg.norm(centre.astype(np.float64)))
    errors = (lost + rounding) * (1 + 1e-6) + _SMALLEST
    errors[~(lengths < _LONGEST)] = np.inf
    return steps.astype(np.float32), errors.astype(np.float32), *_in_a_tile(numbers)


def _in_a_tile(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums, lengths (barely above the true ones) and numbers [n*D], as a tile, of codes int8 [n,D]."""
    sums, squares = (np.empty(len(numbers), np.int32) for _ in range(2))
    for part in _tiles(len(numbers), _ROWS_TOGETHER):
        whole = numbers[part].astype(np.int32)
        sums[part], squares[part] = whole.sum(axis=1), np.einsum("nd,nd->n", whole, whole)
    lengths = (np.sqrt(squares.astype(np.float64)) * (1 + 1e-6)).astype(np.float32)
    return sums, lengths, np.ascontiguousarray(numbers.T).ravel()


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Return the lengths, float64 [n], of float32 `rows` [n,D]."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
