"""Region features in the TSV files of VinVL, bottom-up attention and LXMERT, read line by line."""

import binascii
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import mistaken_kind, mistaken_text
from datasets.features.positional import GzipContent, LineFile, PositionalFile
from datasets.features.predictions import Predictions
from datasets.features.store import Annotations, FeatureStore
from datasets.text_files import parse_json, read_lines, read_text

# The columns of each kind of file; the last, features, is base64 of float32 [R,F].
_VINVL = ("image_id", "num_boxes", "features")
_BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LXMERT = (
    *("image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
_KINDS = {len(columns): columns for columns in (_VINVL, _BOTTOM_UP, _LXMERT)}
_HEAD_BYTES = {_VINVL: 128, _BOTTOM_UP: 4096, _LXMERT: 8192}  # hold all but the features of 100 regions
# The other columns in base64: their type, and the number of values per region.
_ENCODED = {
    "boxes": (np.dtype("<f4"), 4),
    "objects_id": (np.dtype("<i8"), 1),
    "objects_conf": (np.dtype("<f4"), 1),
}
_LONGEST_LINE = 16 << 20  # bytes


class TsvFeatures(FeatureStore):
    """The regions of images in a TSV file without header, one line per image; its columns tell its kind.

    VinVL: image_id, num_boxes, features; boxes, tags and confidences come from the `predictions.tsv` beside
    `features.tsv`, and an `imageid2idx.json` there must agree. Bottom-up attention: image_id, image_w,
    image_h, num_boxes, boxes, features. LXMERT: image_id, image_h, image_w, objects_id, objects_conf,
    attrs_id, attrs_conf, num_boxes, boxes, features; its tags need the names of its classes, one per line, in
    `objects_vocab.txt` beside the file. Only the requested columns of a line are decoded.

    Opening the file reads the beginning of each line, and the whole file once if there is no `.lineidx`. A
    file that ends with `.gz` can be read too, but is fast only from beginning to end.
    Raises `UserError` that names a line that is malformed or truncated, whose number of boxes does not fit
    its features, or whose image has a line already.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: str | Path, expected_dim: int | None = None) -> None:
        self.path = Path(path)
        gzipped = self.path.suffix == ".gz"
        self._file = GzipContent(self.path) if gzipped else PositionalFile(self.path)
        self._columns, line_end = _read_first_line(self._file)
        self._lines = LineFile(self._file, None if gzipped else self.path.with_suffix(".lineidx"))
        ids, counts, lengths = zip(*map(self._read_start, range(len(self._lines))), strict=True)
        self._counts = np.array(counts, dtype=np.int64)
        self._starts = self._lines.starts[:-1] + np.array(lengths, dtype=np.int64)  # of the base64
        ends = self._lines.starts[1:] - len(line_end)
        if self._file.read(self._file.size() - len(line_end), len(line_end)) != line_end:
            ends[-1] = self._file.size()
        self._chars = ends - self._starts  # of the base64
        self.max_regions = int(self._counts.max())
        self.dim = self._find_width()
        self._check_width(expected_dim)
        self._name_rows(self.path, list(ids))
        self._check_id_map()

    def __len__(self) -> int:
        return len(self._counts)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self._counts[rows]

    def annotations(self, row: int) -> Annotations:
        """Return a row's boxes, tags and image size, as far as the files hold them."""
        if self._columns is _VINVL:
            if self._predictions is None:
                return Annotations()
            return self._predictions.annotations(self.image_ids[row], int(self._counts[row]))
        columns = self._read_columns(row)
        boxes = self._decode(row, "boxes", columns["boxes"], *_ENCODED["boxes"])  # [R,4]
        size = (int(columns["image_w"]), int(columns["image_h"]))
        if self._columns is _BOTTOM_UP or self._class_names is None:
            return Annotations(boxes, image_size=size)
        classes, confidences = (
            self._decode(row, name, columns[name], *_ENCODED[name])[:, 0]
            for name in ("objects_id", "objects_conf")
        )
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._class_names):
            found = f"objects_id {classes.min()} to {classes.max()}"
            raise self._malformed(row, found, f"one of the {len(self._class_names)} in objects_vocab.txt")
        return Annotations(boxes, [self._class_names[index] for index in classes], confidences, size)

    def _place(self, row: int) -> str:
        return f"line {row + 1}"

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = np.empty((int(counts.sum()), self.dim), dtype=np.float32)
        end = 0
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            text = self._file.read(int(self._starts[row]), int(self._chars[row]))
            end += count
            values[end - count : end] = self._decode(row, "features", text, np.dtype("<f4"), self.dim)
        return values

    def _decode(self, row: int, column: str, text: bytes, dtype: np.dtype, width: int) -> np.ndarray:
        """Decode the base64 of a row's values [R,width]."""
        count = int(self._counts[row])
        try:
            data = binascii.a2b_base64(text)
        except binascii.Error:
            data = b""
        if len(data) != count * width * dtype.itemsize:  # base64 decoding skips foreign characters silently
            raise self._malformed(
                row, f"bad base64 in the column {column}", f"{count} x {width} values of {dtype}"
            )
        values = np.frombuffer(data, dtype=dtype).reshape(count, width)
        if column != "features" and not np.isfinite(values).all():  # `vectors` checks features
            raise self._malformed(row, f"NaN or infinity in the column {column}", "finite numbers")
        return values

    def _read_start(self, row: int) -> tuple[str, int, int]:
        """Return a line's image id, its number of boxes, and the number of bytes before its features."""
        columns = self._read_columns(row)
        length = sum(map(len, columns.values())) + len(columns)
        return (
            columns["image_id"].decode("utf-8", errors="replace").strip(),
            int(columns["num_boxes"]),
            length,
        )

    def _read_columns(self, row: int) -> dict[str, bytes]:
        """Return a line's columns except its features; check what can be checked without decoding."""
        *names, last = self._columns
        values = self._lines.head(row, _HEAD_BYTES[self._columns]).split(b"\t", len(names))
        if len(values) <= len(names):
            values = self._lines.line(row).split(b"\t", len(names))
        if len(values) <= len(names):
            raise self._malformed(row, f"{len(values)} columns", f"{len(names) + 1}, ending with {last}")
        columns = dict(zip(names, values[:-1], strict=True))
        if not columns["image_id"].strip():
            raise self._malformed(row, "an empty image_id", "a name")
        for name in ("num_boxes", "image_w", "image_h"):
            text = columns.get(name, b"1").strip()
            least = 0 if name == "num_boxes" else 1  # an image may have no region
            if not text.isdigit() or not least <= int(text[:10]) < 1 << 31:
                raise self._malformed(row, f"{name} {text[:20]!r}", f"a number from {least} on")
        count = int(columns["num_boxes"])
        for name, (dtype, width) in _ENCODED.items():
            expected = _base64_length(count * width * dtype.itemsize)
            if name in columns and len(columns[name]) != expected:
                found = f"{count} boxes, but {len(columns[name])} characters in the column {name}"
                raise self._malformed(row, found, f"{expected}: one of the two is wrong")
        return columns

    def _find_width(self) -> int:
        """Return the width of the features, which is that of most lines; refuse a line of another width."""
        some = self._counts > 0
        if not some.any():
            raise UserError(f"{self.path}: no image has a region: extract the features again")
        widths = self._chars[some] * 3 // 4 // (4 * self._counts[some])
        values, times = np.unique(widths, return_counts=True)
        width = int(values[times.argmax()])
        expected = _base64_length(4 * self._counts * width)
        wrong = np.flatnonzero((self._chars != expected) | (some & (self._chars <= 0)))
        if len(wrong):
            row = int(wrong[0])
            self._lines.line(row)  # raises if the .lineidx is at fault, not the line
            short = "the file is cut short" if row == len(self) - 1 else "the line is cut short"
            raise self._malformed(
                row,
                f"{self._counts[row]} boxes, but {self._chars[row]} characters in the column features",
                f"{expected[row]} for {width} values a box: num_boxes is wrong, or {short}",
            )
        return width

    def _check_id_map(self) -> None:
        """Compare VinVL's map from image ids to rows with the ids of the lines."""
        path = _sibling(self.path, "imageid2idx.json")
        if self._columns is not _VINVL or path is None or not path.is_file():
            return
        try:
            row_of = parse_json(path, read_text(path))
        except UserError as error:
            raise UserError(f"{error}: delete it, it is not needed") from error
        if not isinstance(row_of, dict):
            raise UserError(f"{path}: expected an object from image ids to rows: delete it, it is not needed")
        for image_id, row in row_of.items():
            if self.row_of.get(image_id) != row:
                found = self.row_of.get(image_id)
                where = "no line" if found is None else f"line {found + 1}"
                raise UserError(
                    f"{path}: {cut(image_id)!r} is row {cut(json.dumps(row))} (from 0), but {where} of "
                    f"{self.path} has that id: delete it if the lines are right, it is not needed"
                )

    @cached_property
    def _predictions(self) -> Predictions | None:
        path = _sibling(self.path, "predictions.tsv")
        return Predictions(path) if path is not None and path.is_file() else None

    @cached_property
    def _class_names(self) -> list[str] | None:
        """The names of LXMERT's classes; the first one of a class with several names."""
        path = self.path.with_name("objects_vocab.txt")
        if not path.is_file():
            return None
        return [line.partition(",")[0] for line in read_lines(path, "class name")]

    def _malformed(self, row: int, found: str, expected: str) -> UserError:
        return UserError(
            f"{self.path} line {row + 1}: {found}, expected {expected}: "
            "copy the file or extract that image again"
        )


def _read_first_line(file: PositionalFile | GzipContent) -> tuple[tuple[str, ...], bytes]:
    """Return the columns of the kind of file that the first line implies, and the file's line end."""
    line = file.read(0, _LONGEST_LINE)
    line = line[: line.find(b"\n") + 1] or line
    columns = line.count(b"\t") + 1
    if columns not in _KINDS:
        inside = mistaken_text(file.read(0, min(file.size(), 1024)))  # a .gz is what its name says
        if kind := inside or (not line or isinstance(file, PositionalFile)) and mistaken_kind(file.path):
            raise UserError(f"{file.path}: {kind}")
        raise UserError(
            f"{file.path} line 1: {columns} column{'s' if columns > 1 else ''} between tabs, expected "
            + ", or ".join(f"{count} ({', '.join(names)})" for count, names in _KINDS.items())
            + ": name the file of features"
        )
    return _KINDS[columns], b"\r\n" if line.endswith(b"\r\n") else b"\n"


def _sibling(path: Path, name: str) -> Path | None:
    """Return the path of VinVL's file `name` beside `features.tsv` or `X_features.tsv`."""
    stem, found, _ = path.name.partition("features.tsv")
    return path.with_name(stem + name) if found else None


def _base64_length(num_bytes: int | np.ndarray) -> int | np.ndarray:
    return (num_bytes + 2) // 3 * 4
