"""Random reads of region features: HDF5 against a memory-mapped .npy, and TSV against parsing whole lines.

A store of 8,192 images of 36 x 2048 float16 regions (1.2 GB, in the page cache) is read in random batches of
128, as float32 arrays [128,36,2048]. The baseline converts float16 as fast as our reader does, so that only
the files differ; its speed with NumPy's own conversion is printed, too. Our reader checks for NaN, the
baseline does not.

A TSV of 36 x 2048 regions in LXMERT's layout is read at random, an image at a time. The baseline does what
the original's loader does: `csv` parses the whole line, every column is decoded from base64, and features are
copied.
"""

from _report import alternate, report, seconds

import base64
import csv
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from datasets.conversion.precision import compare
from datasets.conversion.contents import read_contents
from datasets.conversion.writer import FeatureDraft
from datasets.features.store import FeatureStore, half_to_single
from datasets.features.npy import NpyFeatures
from datasets.features.hdf5 import Hdf5Features
from datasets.features.tsv import TsvFeatures

IMAGES, REGIONS, WIDTH, BATCH, BATCHES = 8192, 36, 2048, 128, 16
TSV_IMAGES, TSV_READS = 128, 128
COLUMNS = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
TYPES = {
    "objects_id": np.int64, "objects_conf": np.float32, "attrs_id": np.int64, "attrs_conf": np.float32,
    "boxes": np.float32, "features": np.float32,
}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        compare_tsv(folder)
        write_npy(folder / "train_ims.npy")
        convert(NpyFeatures(folder / "train_ims.npy"), folder / "train.h5")
        ours, mapped = compare_random_reads(folder)
    report(
        "random batches of 128 images x 36 x 2048 float16 from HDF5, against a memory-mapped .npy",
        ours=BATCH / ours,
        baseline=BATCH / mapped,
        goal=1 / 1.5,
        unit="images/s",
        higher_is_better=True,
    )


def write_npy(path: Path) -> None:
    """Write random features, block by block."""
    store = np.lib.format.open_memmap(path, "w+", np.float16, (IMAGES, REGIONS, WIDTH))
    random = np.random.default_rng(0)
    for start in range(0, IMAGES, 64):
        store[start : start + 64] = random.random((64, REGIONS, WIDTH), dtype=np.float32)
    store.flush()


def convert(source: FeatureStore, target: Path) -> None:
    """Convert `source` as tools/convert_features.py does, and print the time."""

    def work() -> None:
        contents = read_contents(source)
        draft = FeatureDraft(target, source, contents, "float16")
        draft.write()
        assert compare(source, Hdf5Features(draft.path), None, "float16").exact
        draft.finish()

    took = seconds(work)
    print(f"converting {source.path.stat().st_size / 1e9:.2f} GB of .npy to HDF5, compared: {took:.1f} s")


def compare_random_reads(folder: Path) -> tuple[float, float]:
    """Return the seconds per batch from HDF5 and from the memory map; print those of other ways to read."""
    hdf5, npy = Hdf5Features(folder / "train.h5"), NpyFeatures(folder / "train_ims.npy")
    mapped = np.load(folder / "train_ims.npy", mmap_mode="r")
    random = np.random.default_rng(1)
    batches = [random.choice(IMAGES, BATCH, replace=False) for _ in range(BATCHES)]

    with h5py.File(folder / "train.h5") as file:
        data = file["features"]

        def read_by_h5py(rows: np.ndarray) -> np.ndarray:
            raw = np.empty((BATCH, REGIONS, WIDTH), np.float16)
            for target, row in zip(raw, rows.tolist(), strict=True):
                data.read_direct(target, np.s_[row * REGIONS : (row + 1) * REGIONS])
            return half_to_single(raw)

        ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "HDF5, ours": partial(hdf5.gather, pool=False),
            ".npy, memory map": lambda rows: half_to_single(mapped[rows]),
            ".npy, memory map, numpy's conversion": lambda rows: mapped[rows].astype(np.float32),
            ".npy, ours": partial(npy.gather, pool=False),
            "HDF5, h5py": read_by_h5py,
        }
        timed = {name: partial(_seconds_per_batch, way, batches) for name, way in ways.items()}
        expected = ways[".npy, memory map"](batches[0])
        for name, way in ways.items():
            assert np.array_equal(way(batches[0]), expected), name
            timed[name]()  # warms the page cache and the page table
        ours, baseline = alternate(timed["HDF5, ours"], timed[".npy, memory map"])
        print(f"{'batches of 128 images from':40} images/s")
        print(f"{'HDF5, ours':40} {BATCH / ours:8.0f}")
        print(f"{'.npy, memory map':40} {BATCH / baseline:8.0f}")
        for name in list(ways)[2:]:
            _, other = alternate(timed["HDF5, ours"], timed[name], rounds=3)
            print(f"{name:40} {BATCH / other:8.0f}")
    return ours, baseline


def _seconds_per_batch(read: Callable[[np.ndarray], np.ndarray], batches: list[np.ndarray]) -> float:
    return seconds(lambda: [read(rows) for rows in batches]) / len(batches)


def compare_tsv(folder: Path) -> None:
    """Print the images/s of our reader and of parsing whole lines, for a TSV in LXMERT's layout."""
    path = folder / "obj36.tsv"
    write_tsv(path)
    store = TsvFeatures(path)
    starts = [int(line) for line in path.with_suffix(".lineidx").read_text().split()]
    rows = np.random.default_rng(2).integers(0, TSV_IMAGES, TSV_READS)
    csv.field_size_limit(sys.maxsize)
    with open(path, newline="") as file:

        def parse_line(row: int) -> dict:
            file.seek(starts[row])
            item = next(csv.DictReader([file.readline()], COLUMNS, delimiter="\t"))
            for column, dtype in TYPES.items():
                item[column] = np.frombuffer(base64.b64decode(item[column]), dtype=dtype)
            item["features"] = item["features"].reshape(int(item["num_boxes"]), -1).copy()
            return item

        def ours() -> float:
            return seconds(lambda: [store.gather(np.array([row]), pool=False) for row in rows]) / TSV_READS

        def baseline() -> float:
            return seconds(lambda: [parse_line(row) for row in rows]) / TSV_READS

        assert np.array_equal(store[3].features, parse_line(3)["features"])
        ours(), baseline()
        fast, slow = alternate(ours, baseline)
    print(
        f"TSV, an image of 36 x 2048 at a time: {1 / fast:.0f} images/s, whole lines {1 / slow:.0f}: "
        f"{slow / fast:.2f} times"
    )


def write_tsv(path: Path) -> None:
    """Write random regions as LXMERT's extractor does."""
    random = np.random.default_rng(3)
    shapes = dict.fromkeys(TYPES, REGIONS) | {"boxes": REGIONS * 4, "features": REGIONS * WIDTH}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        for image in range(TSV_IMAGES):
            encoded = {
                name: base64.b64encode((random.random(shapes[name]) * 400).astype(dtype)).decode()
                for name, dtype in TYPES.items()
            }
            values = {"img_id": image, "img_h": 480, "img_w": 640, "num_boxes": REGIONS, **encoded}
            writer.writerow([values[column] for column in COLUMNS])


if __name__ == "__main__":
    main()
