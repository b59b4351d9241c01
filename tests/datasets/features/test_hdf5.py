"""HDF5 files, by us or by others, are read as they were written, and refused if malformed."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from datasets.conversion.contents import read_contents
from datasets.conversion.writer import FeatureDraft
from datasets.features.formats import open_features
from datasets.features.hdf5 import ChunkedArray, Hdf5Features
from datasets.features.tsv import TsvFeatures
from tests.closeness import assert_close
from tests.region_files import check_equal, check_refused, make_regions, write_tsv

COUNTS = [3, 1, 12, 7]


@pytest.fixture
def images():
    return make_regions(COUNTS)


@pytest.fixture
def stored(tmp_path, images):
    """Return a function that writes the images as HDF5 of a type, by the converter's own steps."""

    def write(dtype="float32"):
        source = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))
        draft = FeatureDraft(tmp_path / "a.h5", source, read_contents(source), dtype)
        draft.write()
        draft.finish()
        return tmp_path / "a.h5"

    return write


def write_plain(path, images, **options):
    """Write the documented layout by h5py alone, as others would."""
    features = np.concatenate([regions.features for regions in images.values()])
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, **options)
        file["offsets"] = np.cumsum([0, *(len(regions.features) for regions in images.values())])
        file["ids"] = list(images)
        file["boxes"] = np.concatenate([regions.boxes for regions in images.values()])
    return path


def test_what_was_written_is_read(stored, images):
    store = open_features(stored())
    assert (len(store), store.dim, store.max_regions, store.dtype) == (4, 6, 12, np.float32)
    assert store.image_ids == list(images) and store.row_of["image 2"] == 2
    for row in (2, 0, 3, 1):
        check_equal(store[row], images[f"image {row}"])
    assert store.annotations(1).tags == images["image 1"].tags


def test_batches_of_any_order_are_padded_and_pooled(stored, images):
    store = Hdf5Features(stored())
    for rows in ([1, 0, 3], [0, 1, 2, 3], [2, 2, 0]):
        wanted = [images[f"image {row}"].features for row in rows]
        padded, pooled = store.gather(np.array(rows), False), store.gather(np.array(rows), True)
        assert padded.shape == (len(rows), max(map(len, wanted)), 6)
        for place, features in enumerate(wanted):
            np.testing.assert_array_equal(padded[place, : len(features)], features)
            assert not padded[place, len(features) :].any()
            assert_close(pooled[place], features.mean(axis=0), len(features) + 1, np.abs(features).max())


def test_float16_and_int8_are_read_as_documented(stored, images):
    half = Hdf5Features(stored("float16"))
    np.testing.assert_array_equal(half[2].features, images["image 2"].features.astype(np.float16))
    path = stored("int8")
    store = Hdf5Features(path)
    with h5py.File(path) as file:
        integers, scales = file["features"][4:16], file["scales"][4:16]
    features = images["image 2"].features
    np.testing.assert_array_equal(store[2].features, integers * scales[:, None])
    assert np.abs(integers).max(axis=1).tolist() == [127] * 12
    assert (np.abs(store[2].features - features) <= np.abs(features).max(axis=1)[:, None] / 254 * 1.001).all()


@pytest.mark.parametrize("options", [{}, {"chunks": (5, 6)}, {"compression": "gzip"}], ids=str)
def test_files_of_others_are_read_packed_or_not(tmp_path, images, options):
    store = Hdf5Features(write_plain(tmp_path / "a.h5", images, **options))
    assert isinstance(store._features, ChunkedArray) == bool(options)
    found = store.gather(np.array([3, 0]), pool=False)
    np.testing.assert_array_equal(found[0], images["image 3"].features)
    np.testing.assert_array_equal(found[1, :3], images["image 0"].features)
    np.testing.assert_array_equal(store[2].boxes, images["image 2"].boxes)
    assert store[2].tags is None and store.image_ids == list(images)


def test_other_bytes_orders_and_number_ids_are_read(tmp_path):
    features = np.random.default_rng(0).normal(size=(4, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["ids"] = features.astype(">f4"), np.array([7, 9, 8, 391895])
    store = Hdf5Features(tmp_path / "a.h5")
    assert store.max_regions is None and store.image_ids == ["7", "9", "8", "391895"]
    np.testing.assert_array_equal(store.gather(np.array([2, 0]), True), features[[2, 0]].astype(np.float32))
    assert store[3].features.shape == (3,) and store.describe() == "3 features"


def gather_all(store):
    return store.gather(np.arange(len(store)), pool=True)


@pytest.mark.parametrize("options", [{}, {"chunks": (5, 6)}], ids=str)
def test_threads_and_processes_read_the_same(tmp_path, images, options):
    store = Hdf5Features(write_plain(tmp_path / "a.h5", images, **options))
    expected = gather_all(store)  # opened before the process forks
    with ThreadPoolExecutor(4) as pool:
        for read in pool.map(gather_all, [store] * 20):
            np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(gather_all(pickle.loads(pickle.dumps(store))), expected)  # noqa: S301
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        sending.send(gather_all(store).tolist())
        os._exit(0)
    try:
        assert receiving.poll(20)
        assert receiving.recv() == expected.tolist()
    finally:
        os.waitpid(child, 0)


def test_a_file_larger_than_memory_is_never_loaded_whole(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:  # 14 GB, of which the disk holds nothing
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = h5py.h5s.create_simple((3_600_000, 2048))
        h5py.h5d.create(file.id, b"features", h5py.h5t.py_create(np.dtype("<f2")), shape, options)
        file["offsets"] = np.arange(0, 3_600_001, 36)
    store = Hdf5Features(path)
    tracemalloc.start()
    pooled = store.gather(np.array([99_999, 5, 50_000]), pool=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pooled.shape == (3, 2048) and not pooled.any()
    assert peak < 8 * 2**20


def test_h5py_is_not_imported_before_an_hdf5_file_is_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    program = (
        "import sys; from datasets.build.dual import open_features; "
        f"open_features({str(tmp_path / 'a.npy')!r}); sys.exit('h5py' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def replaced(name, change):
    """Return a change of a file that replaces a data set."""

    def damage(path):
        with h5py.File(path, "r+") as file:
            values = file[name].asstr()[()] if name in ("ids", "tag_names") else file[name][()]
            del file[name]
            changed = change(values)
            if changed is not None:
                file[name] = changed

    return damage


def with_value(place, value):
    def change(values):
        values[place] = value
        return values

    return change


NAN = (17, 3)  # of the fourth image
BROKEN = {
    "missing": (lambda path: path.unlink(), ["a.h5: no such file"]),
    "cut short": (cut, ["a.h5: cut short"]),
    "no HDF5": (lambda path: path.write_text("features"), ["a.h5: not an HDF5 file"]),
    "no features": (replaced("features", lambda _: None), ["no data set 'features' among"]),
    "integers": (replaced("features", lambda v: v.astype(int)), ["features are int64 [23, 6]"]),
    "three axes": (replaced("features", lambda v: v[None]), ["features is [1, 23, 6] float32", "2 axes"]),
    "int8 without scales": (replaced("features", lambda v: v.astype(np.int8)), ["no data set 'scales'"]),
    "a count that lies": (
        replaced("offsets", with_value(3, 2)),
        ["offsets of row 3 are 4 to 2", "rise"],
    ),
    "offsets that end early": (replaced("offsets", with_value(4, 20)), ["row 4 end at 20", "the end, 23"]),
    "offsets from 1": (replaced("offsets", with_value(0, 1)), ["offsets of row 1 are 1 to 3"]),
    "offsets of text": (replaced("offsets", lambda v: [b"a"]), ["offsets is [1]", "[images + 1]"]),
    "ids too few": (replaced("ids", lambda v: v[:3]), ["ids is [3]", "expected 4 texts"]),
    "an id twice": (
        replaced("ids", with_value(3, "image 1")),
        ["row 4 of ids: duplicate image id 'image 1'"],
    ),
    "ids of numbers with a point": (replaced("ids", lambda v: np.ones(4)), ["ids is float64"]),
    "boxes of other regions": (replaced("boxes", lambda v: v[1:]), ["boxes is [22, 4]", "23 rows"]),
    "boxes of three": (replaced("boxes", lambda v: v[:, 1:]), ["boxes are 3 wide"]),
    "sizes of other images": (replaced("image_sizes", lambda v: v[1:]), ["image_sizes is [3, 2]", "4 rows"]),
    "tags without names": (replaced("tag_names", lambda _: None), ["no data set 'tag_names'"]),
    "tags without offsets": (replaced("tag_offsets", lambda _: None), ["tag_offsets [5]"]),
    "tags that end early": (replaced("tag_offsets", with_value(4, 20)), ["tag_offsets of row 4 end at 20"]),
    "confidences too few": (replaced("confidences", lambda v: v[1:]), ["confidences is [22]", "23 rows"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_when_it_is_opened(stored, fault):
    damage, expected = BROKEN[fault]
    path = stored()
    damage(path)
    check_refused(lambda: Hdf5Features(path), expected)


@pytest.mark.parametrize(("name", "hold"), [("ids", "whole"), ("ids", "parts"), ("tag_names", "whole")])
@pytest.mark.parametrize("damage", ["length", "free space", "a size", "another heap"])
def test_texts_whose_notes_lie_are_refused_before_hdf5_believes_them(tmp_path, images, name, hold, damage):
    path = write_plain(tmp_path / "a.h5", images)
    with h5py.File(path, "r+") as file:
        texts = {"ids": list(images), "tag_names": ["dog", "a cat"]}
        if "ids" in file:
            del file["ids"]
        data = file.create_dataset(name, data=texts[name], chunks=(2,) if hold == "parts" else None)
        if name == "tag_names":
            file["tags"], file["tag_offsets"] = [0, 1], [0, 1, 1, 2, 2]
        place = data.id.get_chunk_info(1).byte_offset if hold == "parts" else data.id.get_offset()
    content = bytearray(path.read_bytes())
    heap = int.from_bytes(content[place + 4 : place + 12], "little")
    assert content[heap : heap + 4] == b"GCOL"
    first = heap + 16
    size = int.from_bytes(content[first + 8 : first + 16], "little")
    if damage == "length":
        content[place : place + 4] = (2**31).to_bytes(4, "little")
    elif damage == "a size":
        content[first + 8 : first + 16] = (2**64 - 17).to_bytes(8, "little")
    elif damage == "another heap":
        content[place + 4 : place + 12] = len(content).to_bytes(8, "little")
    else:
        free = first
        while content[free : free + 2] != b"\0\0":
            free += 16 + (int.from_bytes(content[free + 8 : free + 16], "little") + 7) // 8 * 8
        content[free + 8 : free + 16] = bytes(8)
    path.write_bytes(content)
    assert 0 < size < 100
    check_refused(lambda: Hdf5Features(path), [f"{name} is [", "no more than the file can hold"])


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (7,)}, {"compression": "gzip"}, {"dtype": "S40"}], ids=str
)
def test_ids_of_many_heaps_are_read(tmp_path, options):
    ids = [f"é{row}" * (row % 7) + str(row) for row in range(3000)]
    ids[5] = ""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((len(ids), 2), np.float32)
        stored = [text.encode() for text in ids] if "dtype" in options else ids
        file.create_dataset("ids", data=stored, **options)
    assert Hdf5Features(tmp_path / "a.h5").image_ids == ids


def test_ids_of_files_with_short_places_are_read(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    low = h5py.h5f.create(str(tmp_path / "a.h5").encode(), h5py.h5f.ACC_TRUNC, fcpl=plist)
    with h5py.File(low) as file:
        file["features"], file["ids"] = np.ones((2, 3), np.float32), ["a", "é"]
    assert Hdf5Features(tmp_path / "a.h5").image_ids == ["a", "é"]


def test_a_shape_that_lies_is_refused_before_memory_is_taken(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["1_features"] = np.ones((2, 3), np.float32)
        file.create_dataset("1_boxes", shape=(1 << 40, 4), chunks=(1024, 4), dtype=np.float32)
    store = open_features(tmp_path / "a.h5")
    check_refused(lambda: store[0], ["1_boxes cannot be read"])


@pytest.mark.parametrize("size", [(1 << 32, 5), (-1, 5)])
def test_sizes_that_no_image_has_are_refused(tmp_path, images, size):
    path = write_plain(tmp_path / "a.h5", images)
    with h5py.File(path, "r+") as file:
        file["image_sizes"] = [(640, 480), size, (640, 480), (640, 480)]
    store = Hdf5Features(path)
    assert store.annotations(0).image_size == (640, 480)
    check_refused(lambda: store.annotations(1), ["image_sizes of row 2 are"])


def test_another_width_than_configured_is_refused(stored):
    path = stored()
    check_refused(lambda: Hdf5Features(path, expected_dim=2048), ["6 wide", "IMG_FEATURE_DIM is 2048"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_nan_names_the_row(stored, dtype):
    path = stored(dtype)
    name, place = ("scales", 17) if dtype == "int8" else ("features", NAN)
    with h5py.File(path, "r+") as file:
        file[name][place] = np.nan
    store = Hdf5Features(path)
    store.gather(np.array([0, 1, 2]), pool=True)
    for read in (lambda: store.gather(np.array([2, 3]), pool=False), store.moments, store.check):
        check_refused(read, ["a.h5: row 4 holds NaN or infinity"])


def test_tags_outside_of_their_names_are_refused(stored):
    path = stored()
    replaced("tags", with_value(5, 99))(path)
    store = Hdf5Features(path)
    assert store[0].tags
    check_refused(lambda: store[2], ["tags of row 3 outside of tag_names"])


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(stored):
    path = stored()
    store = Hdf5Features(path)
    path.write_bytes(path.read_bytes()[:100])
    check_refused(lambda: store.gather(np.array([1, 3]), pool=False), ["a.h5: row 2 ends too early"])
