"""Codes of vectors with 8 bits a number, and how far a score by them may be off.

A number of a vector is the centre of its column, plus a whole number of steps; a step is that of the row
times the width of the column. The rest that this leaves of a row is measured when its codes are made: the
inner product of a query q with the vector is that with its code, give or take |q| times the length of the
rest (Cauchy-Schwarz).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.whole import replacing
from config.progress import ShowProgress, no_progress
from serving.index.engines.integers import ZERO
from serving.index.engines.saved import Saved, contents_check, file_check
from serving.index.vectors import blocks_of, damaged

CODES = "codes.i8"
MOST_STEPS = 127  # from the centre, on either side
SINGLE = 2.0**-24  # unit roundoff of float32
_SAMPLED_ROWS = 16_384  # that show how wide the columns are
_ROWS_TOGETHER = 64  # that are encoded at a time: they stay in a core's cache
_SMALLEST = 1e-30  # what numbers near the smallest of float32 may lose at most
_LONGEST = 1e18  # of vectors: float32 holds products of two of them
_NARROWEST = 1 / 16  # of the usual width: a column that hardly varies needs no finer steps


@dataclass(frozen=True)
class Codes:
    """Codes of N vectors: `numbers`, uint8 [N,D], and float32 arrays that say what they stand for.

    Number j of row i is `centre[j] + steps[i] * widths[j] * (numbers[i, j] - ZERO)`. For a query of length 1,
    its float32 score by the vector itself is within `errors[i]` of the true score by its code.
    """

    centre: np.ndarray  # [D]
    widths: np.ndarray  # [D]
    steps: np.ndarray  # [N]
    errors: np.ndarray  # [N]
    numbers: np.ndarray  # [N,D]

    @property
    def memory(self) -> int:
        """Return the bytes that they take."""
        return sum(each.nbytes for each in vars(self).values())


def codes_of(vectors: np.ndarray) -> Codes | None:
    """Return codes of float32 `vectors` [N,D]; None where their numbers are too large for them."""
    centre, widths = _columns(vectors)
    parts = [_encoded(vectors[part], centre, widths) for part in blocks_of(*vectors.shape)]
    steps, errors, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Codes(centre, widths, steps, errors, numbers) if np.isfinite(errors).all() else None


def build_codes(folder: Path, vectors: np.ndarray, show: ShowProgress = no_progress) -> Saved:
    """Write the codes of float32 `vectors` [N,D]; raise OSError, and UserError for huge numbers."""
    centre, widths = _columns(vectors)
    rows = np.empty((2, len(vectors)), np.float32)
    with replacing(folder / CODES) as draft:
        with open(draft, "wb") as file:
            for part in blocks_of(*vectors.shape):
                *rows[:, part], numbers = _encoded(vectors[part], centre, widths)
                file.write(numbers.data)
                show("writing codes", part.stop, len(vectors))
            for each in (centre, widths, *rows):
                file.write(each.data)
    if not np.isfinite(rows).all():
        raise UserError("a vector has numbers that are too large for codes: build with --engine scan")
    return Saved("int8", len(vectors), file_check(folder / CODES), {})


def load_codes(folder: Path, saved: Saved, dimension: int) -> Codes:
    """Return the codes in `folder`, mapped into memory; raise UserError unless they are what was written."""
    path, count = folder / CODES, saved.rows
    wanted = count * dimension + 4 * 2 * (count + dimension)
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
    cuts = np.cumsum([4 * dimension, 4 * dimension, 4 * count])
    arrays = (np.frombuffer(each.tobytes(), np.float32) for each in np.split(rest, cuts))
    centre, widths, steps, errors = arrays
    return Codes(centre, widths, steps, errors, numbers.reshape(count, dimension))


def _columns(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centres [D] and widths [D] of the columns, as a sample of rows shows them."""
    sample = vectors[:: -(-len(vectors) // _SAMPLED_ROWS)].astype(np.float64)
    centre = sample.mean(axis=0).astype(np.float32)
    spread = np.sqrt(np.square(sample - centre).mean(axis=0))
    usual = np.sqrt(np.square(spread).mean()) or 1.0
    return centre, np.maximum(spread, usual * _NARROWEST).astype(np.float32)


def _encoded(
    vectors: np.ndarray, centre: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps [n], errors [n] and numbers [n,D] of float32 `vectors` [n,D]."""
    count, dimension = vectors.shape
    steps, lost, lengths = np.empty((3, count))
    numbers = np.empty((count, dimension), np.uint8)
    for start in range(0, count, _ROWS_TOGETHER):
        part = slice(start, start + _ROWS_TOGETHER)
        scaled = (vectors[part] - centre) / widths
        steps[part] = (np.abs(scaled).max(axis=1) / np.float32(MOST_STEPS)).astype(np.float32)
        scaled /= np.where(steps[part] > 0, steps[part], 1)[:, None].astype(np.float32)
        whole = np.clip(np.rint(scaled), -MOST_STEPS, MOST_STEPS)
        numbers[part] = whole + ZERO
        scaled -= whole
        scaled *= widths
        lost[part], lengths[part] = _lengths(scaled) * steps[part], _lengths(vectors[part])
    # Sums of float32 products of D numbers differ from the true ones (Higham 2002, section 3.1), and so do
    # the few sums above, and those by which the score of a code is put together.
    rounding = (dimension + 48) * SINGLE * (lengths + np.linalg.norm(centre.astype(np.float64)))
    errors = (lost + rounding) * (1 + 1e-6) + _SMALLEST
    errors[~(lengths < _LONGEST)] = np.inf
    return steps.astype(np.float32), errors.astype(np.float32), numbers


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Return the lengths, float64 [n], of float32 `rows` [n,D]."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
