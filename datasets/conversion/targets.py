"""Create feature files with room for all vectors, and tell where in them each vector is to be written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError
from datasets.conversion.contents import Contents
from datasets.features.hdf5 import open_hdf5
from datasets.features.npy import beside

if TYPE_CHECKING:
    import h5py

FORMATS = (".h5", ".hdf5", ".npy")
_TYPES = {"scales": np.float32, "boxes": np.float32}  # the types of what accompanies the vectors


@dataclass(frozen=True)
class Place:
    """Rows of `row_bytes` bytes each, one after another in a file from `offset` on."""

    path: Path
    offset: int
    row_bytes: int


def check_format(target: Path) -> None:
    """Raise `UserError` if the name of a file has no suffix of a known format."""
    if target.suffix not in FORMATS:
        raise UserError(f"{target}: expected a name that ends with {', '.join(FORMATS)}: name it so")


def check_target(target: Path, contents: Contents, dtype: str) -> None:
    """Raise `UserError` if a file of that format cannot hold the contents as `dtype`."""
    check_format(target)
    if target.suffix != ".npy":
        return
    if dtype == "int8":
        raise UserError(f"{target}: int8 needs its scales, which .npy has no room for: write .h5, or float16")
    fewest, most = int(contents.counts.min()), int(contents.counts.max())
    if fewest != most:
        raise UserError(
            f"{target}: images have {fewest} to {most} regions, but rows of a .npy file are alike: write .h5"
        )


def file_names(target: Path, contents: Contents | None = None) -> list[str]:
    """Return the names of the files that a target consists of; the file that the user named is last.

    Without `contents`, these are all the files that the target may consist of.
    """
    if target.suffix != ".npy":
        return [target.name]
    sides = {
        "ids.txt": contents is None or contents.ids is not None,
        "tags.txt": contents is None or contents.tags is not None,
        "boxes.npy": contents is None or contents.has_boxes,
        "sizes.npy": contents is None or contents.image_sizes is not None,
        "extraction.json": contents is None or contents.extraction is not None,
    }
    return [*(beside(target, side).name for side, there in sides.items() if there), target.name]


def create_files(path: Path, contents: Contents, dtype: str) -> None:
    """Create files that hold everything but vectors, scales and boxes, and have room for those."""
    if path.suffix == ".npy":
        _create_npy(path, contents, dtype)
    else:
        _create_hdf5(path, contents, dtype)


def places(path: Path, contents: Contents, dtype: str) -> dict[str, Place]:
    """Return where vectors ("features"), "scales" and "boxes" belong in the files of `create_files`."""
    if path.suffix == ".npy":
        files = {"features": path, **({"boxes": beside(path, "boxes.npy")} if contents.has_boxes else {})}
        return {
            name: Place(file, _header_bytes(file), _row_bytes(name, contents, dtype))
            for name, file in files.items()
        }
    with open_hdf5(path) as file:
        return {
            name: Place(path, file[name].id.get_offset(), _row_bytes(name, contents, dtype))
            for name in ("features", "scales", "boxes")
            if name in file
        }


def _row_bytes(name: str, contents: Contents, dtype: str) -> int:
    width = {"features": contents.dim, "scales": 1, "boxes": 4}[name]
    return width * np.dtype(_TYPES.get(name, dtype)).itemsize


def _create_hdf5(path: Path, contents: Contents, dtype: str) -> None:
    import h5py

    texts = {"ids": contents.ids, "tag_names": contents.tag_names}
    arrays = {
        "offsets": _offsets(contents.counts) if contents.has_regions else None,
        "image_sizes": contents.image_sizes,
        "tags": contents.tags,
        "tag_offsets": None if contents.tag_counts is None else _offsets(contents.tag_counts),
        "confidences": contents.confidences,
    }
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"] = "image features", 1
        if contents.extraction is not None:
            # As a str: HDF5 loses a file with bytes of nearly 64 kB here (findings/hdf5_attribute_size.sh).
            file.attrs["extraction"] = json.dumps(contents.extraction)
        for name, values in arrays.items():
            if values is not None:
                file.create_dataset(name, data=values)
        for name, values in texts.items():
            if values is not None:
                encoded = [value.encode() for value in values]
                kind = h5py.string_dtype("utf-8", max(map(len, encoded), default=1) or 1)
                file.create_dataset(name, data=np.array(encoded, dtype=kind))
        _make_room(file, "features", (contents.num_vectors, contents.dim), dtype)
        if dtype == "int8":
            _make_room(file, "scales", (contents.num_vectors,), "float32")
        if contents.has_boxes:
            _make_room(file, "boxes", (contents.num_vectors, 4), "float32")


def _make_room(file: "h5py.File", name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Create a data set whose room in the file is allocated at once, before anything is written."""
    import h5py

    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_layout(h5py.h5d.CONTIGUOUS)
    options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    options.set_obj_track_times(False)  # the same contents give the same bytes
    kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), kind, space, options)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _create_npy(path: Path, contents: Contents, dtype: str) -> None:
    regions = (int(contents.counts[0]),) if contents.has_regions else ()
    _write_npy_header(path, dtype, (contents.num_images, *regions, contents.dim))
    if contents.has_boxes:
        _write_npy_header(beside(path, "boxes.npy"), "float32", (contents.num_images, *regions, 4))
    if contents.ids is not None:
        text = "".join(f"{image_id}\n" for image_id in contents.ids)
        beside(path, "ids.txt").write_text(text, encoding="utf-8")
    if contents.extraction is not None:
        record = json.dumps(contents.extraction, indent=1) + "\n"
        beside(path, "extraction.json").write_text(record, encoding="utf-8")
    if contents.image_sizes is not None:
        np.save(beside(path, "sizes.npy"), contents.image_sizes)
    if contents.tags is not None:
        beside(path, "tags.txt").write_text("".join(_tag_lines(contents)), encoding="utf-8")


def _tag_lines(contents: Contents) -> list[str]:
    lines = []
    for start, count in zip(_offsets(contents.tag_counts), contents.tag_counts, strict=False):
        run = slice(start, start + count)
        line: dict[str, list] = {"tags": [contents.tag_names[code] for code in contents.tags[run]]}
        if contents.confidences is not None:
            # str of a float32 is the shortest text that reads back as the same number
            line["confidences"] = [float(str(value)) for value in contents.confidences[run]]
        lines.append(f"{json.dumps(line, ensure_ascii=False)}\n")
    return lines


def _write_npy_header(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


def _header_bytes(path: Path) -> int:
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()
