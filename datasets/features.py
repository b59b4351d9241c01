"""Precomputed image features in a `.npy` file, read row by row and never loaded whole."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.errors import UserError

_DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))
_CHUNK_VALUES = 1 << 18  # values that are converted at a time: 1 MB as float32, which stays in the cache
_BLOCK_BYTES = 4 << 20  # bytes per read when the whole file is streamed
_CHECKED_AHEAD_BYTES = 2 << 30  # what a disk reads in seconds


class NpyFeatures:
    """The feature rows of one split: `[N,F]` (an image a row) or `[N,R,F]` (R regions a row).

    Rows are read by position into the batch that needs them. A memory map would be as lazy, but every page
    of it that was ever touched counts as resident memory: after an epoch, the whole file.

    Raises `UserError` for a file that is missing, cut short, of another kind, or not `expected_dim` wide.
    """

    def __init__(self, path: str | Path, expected_dim: int | None = None) -> None:
        self.path = Path(path)
        self.shape, self.dtype, self._offset = _read_header(self.path)
        self.dim = self.shape[-1]
        self.max_regions = self.shape[1] if len(self.shape) == 3 else None
        if expected_dim is not None and expected_dim != self.dim:
            raise UserError(
                f"{self.path}: features are {self.dim} wide, but INPUT.IMG_FEATURE_DIM is {expected_dim}: "
                f"add INPUT.IMG_FEATURE_DIM={self.dim} (a trained model keeps its own width)"
            )
        self._row_values = int(np.prod(self.shape[1:]))
        self._row_bytes = self._row_values * self.dtype.itemsize
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, rows: np.ndarray, pool: bool) -> np.ndarray:
        """Read some rows, in the order asked for; safe to call from several threads.

        rows: int [B], 0-based. Returns float32 [B,F]: global features, or regions averaged when `pool`;
        float32 [B,R,F] for regions otherwise. Raises `UserError` naming the row that holds NaN or infinity.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a file with {len(self)} rows")
        pooled = pool and self.max_regions is not None
        out = np.empty((len(rows), self.dim) if pooled else (len(rows), *self.shape[1:]), dtype=np.float32)
        step = max(1, _CHUNK_VALUES // self._row_values)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = self._to_float32(self._read(part), part)
            out[start : start + step] = values.mean(axis=1) if pooled else values
        return out

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return how many regions each row holds, int64 [B]; 1 for global features."""
        return np.full(len(rows), self.max_regions or 1, dtype=np.int64)

    def check(self) -> None:
        """Read a file of up to 2 GB once; raise `UserError` naming the row that holds NaN or infinity.

        A larger file would take minutes: its rows are checked when they are read, as all rows are.
        """
        if len(self) * self._row_bytes > _CHECKED_AHEAD_BYTES:
            return
        for rows in self._blocks():
            self.gather(rows, pool=False)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and (population) standard deviation over all rows, regions averaged first.

        Returns float32 [F] and float32 [F]. Streams the file; blocks are merged in float64
        (Chan, Golub and LeVeque 1983, eq. 2.1), which does not cancel as a sum of squares would.
        """
        count, mean, spread = 0, np.zeros(self.dim), np.zeros(self.dim)
        for rows in self._blocks():
            values = self.gather(rows, pool=True).astype(np.float64)  # [B,F]
            block_mean = values.mean(axis=0)
            shift = block_mean - mean
            total = count + len(rows)
            spread += (
                np.square(values - block_mean).sum(axis=0) + np.square(shift) * count * len(rows) / total
            )
            mean += shift * len(rows) / total
            count = total
        return mean.astype(np.float32), np.sqrt(spread / count).astype(np.float32)

    def repeats_previous(self) -> np.ndarray:
        """Whether each row's bytes equal those of the row above: bool [N], the first is False.

        This is how one image stands in a file that repeats its row for each of its captions.
        """
        repeats = np.zeros(len(self), dtype=bool)
        for rows in self._blocks():
            rows = np.arange(max(rows[0] - 1, 0), rows[-1] + 1)  # with the row above
            raw = self._read(rows).reshape(len(rows), -1).view(f"u{self.dtype.itemsize}")
            repeats[rows[1:]] = (raw[1:] == raw[:-1]).all(axis=1)
        return repeats

    def _blocks(self) -> Iterator[np.ndarray]:
        step = max(1, _BLOCK_BYTES // self._row_bytes)
        for start in range(0, len(self), step):
            yield np.arange(start, min(start + step, len(self)))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Read rows as they are stored: [B, ...] of `self.dtype`."""
        raw = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        flat = raw.reshape(len(rows), -1)
        if len(rows) > 1 and (np.diff(rows) == 1).all():
            reads = [(flat, rows[0])]
        else:
            reads = zip(flat, rows.tolist(), strict=True)
        for target, row in reads:
            if os.preadv(self._file, [target], self._offset + int(row) * self._row_bytes) != target.nbytes:
                raise UserError(f"{self.path}: row {row + 1} ends too early: the file shrank, write it anew")
        return raw

    def _to_float32(self, raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if raw.dtype == np.float16:
            # numpy's isfinite is slow on float16; all exponent bits set is what makes NaN and infinity
            finite = (raw.view(np.uint16) & 0x7C00) != 0x7C00
            values = half_to_single(raw)
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
                values = raw.astype(np.float32, copy=False)
            finite = np.isfinite(values)
        if not finite.all():
            first = rows[np.flatnonzero(~finite.reshape(len(rows), -1).all(axis=1))[0]]
            raise UserError(
                f"{self.path}: row {first + 1} holds NaN or infinity, expected finite numbers: "
                "extract that image's features again"
            )
        return values


def half_to_single(half: np.ndarray) -> np.ndarray:
    """Convert finite float16 to float32 exactly, some five times faster than `astype` does.

    Shifts sign, exponent and mantissa to their places in a float32; the exponents differ in bias by
    112, which one product mends, for subnormal numbers too. NaN and infinity come out wrong.
    """
    bits = half.view(np.int16).astype(np.int32)  # widening repeats the sign bit
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign, five exponent bits and the mantissa
    single = bits.view(np.float32)
    single *= np.float32(2.0**112)
    return single


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, dtype and the offset of the first row, having checked that the data is all there."""
    if not os.path.isfile(path):  # Path.is_file raises OSError for a name that is too long
        found = ", ".join(sorted(p.name for p in path.parent.glob("*_ims.npy")))
        raise UserError(
            f"{path}: no such file, expected the features of a split"
            + (
                f"; the folder holds {found}: check DATASET.TRAIN, DEV and TEST"
                if found
                else ": check DATASET.DATA_DIR"
            )
        )
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read(file)
            offset = file.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: mend its permissions") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a .npy file ({reason}): write it with numpy.save") from error
    if dtype not in _DTYPES:
        raise UserError(
            f"{path}: expected float16, float32 or float64, got {dtype}: convert it with array.astype"
        )
    if fortran_order and min(shape, default=1) > 1:
        raise UserError(f"{path}: expected rows in C order: save numpy.ascontiguousarray(array)")
    if len(shape) not in (2, 3) or 0 in shape:
        raise UserError(
            f"{path}: expected shape [images, features] or [images, regions, features], got {list(shape)}"
        )
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    size = path.stat().st_size
    if size < expected:
        raise UserError(f"{path}: cut short: expected {expected} bytes, got {size}: copy or extract it again")
    return shape, dtype, offset
