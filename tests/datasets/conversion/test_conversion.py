"""A conversion keeps every bit that its type can hold, reports its error, and survives interruption."""

import gzip
import json
import os

import h5py
import numpy as np
import pytest

from datasets.conversion.contents import read_contents
from datasets.conversion.precision import Deviation, compare, decode, encode
from datasets.conversion.targets import file_names
from datasets.conversion.writer import FeatureDraft, partial_folder
from datasets.features.formats import open_features
from datasets.features.hdf5 import Hdf5Features
from datasets.features.npy import NpyFeatures
from datasets.features.tsv import TsvFeatures
from tests.region_files import check_equal, check_refused, make_regions, write_tsv


def convert(source, target, dtype="float32"):
    """Convert all of a source; return the store and the deviation found."""
    contents = read_contents(source)
    draft = FeatureDraft(target, source, contents, dtype)
    draft.write()
    deviation = compare(source, open_features(draft.path), contents.ids, dtype)
    draft.finish()
    return open_features(target), deviation


@pytest.fixture
def source(tmp_path):
    return TsvFeatures(write_tsv(tmp_path / "features.tsv", make_regions([3, 1, 12, 7]), "lxmert"))


def test_int8_is_the_largest_value_in_127_steps():
    vectors = np.array([[1.0, -2.54, 0.02, 0.0], [0, 0, 0, 0], [1e-45, 0, -1e-45, 0]], np.float32)
    integers, scales = encode(vectors, "int8")
    assert integers.dtype == np.int8 and scales.dtype == np.float32
    assert integers[0].tolist() == [50, -127, 1, 0] and integers[1].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(scales[0], 0.02, rtol=1e-6)
    found = decode(integers, scales)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    for vector, kept in zip(vectors.astype(np.float64), found, strict=True):
        for value, other in zip(vector, kept, strict=True):
            assert abs(value - other) <= max(abs(vector)) / 254 * 1.0001 + 1e-44


def test_deviations_are_those_of_plain_loops():
    random = np.random.default_rng(0)
    source = random.normal(size=(30, 5)).astype(np.float32)
    source[3] = 0
    stored = decode(*encode(source, "int8"))
    deviation = Deviation()
    for start in range(0, 30, 7):
        deviation.add(source[start : start + 7], stored[start : start + 7])
    errors = [abs(float(a) - float(b)) for a, b in zip(source.ravel(), stored.ravel(), strict=True)]
    largest = [max(abs(float(value)) for value in vector) or 1.0 for vector in source for _ in vector]
    shares = [error / most for error, most in zip(errors, largest, strict=True)]
    assert not deviation.exact
    np.testing.assert_allclose(deviation.largest, max(errors))
    np.testing.assert_allclose(deviation.total / deviation.count, np.mean(errors))
    np.testing.assert_allclose(deviation.largest_share, max(shares))
    np.testing.assert_allclose(deviation.total_share / deviation.count, np.mean(shares))


def test_minus_zero_is_another_bit():
    deviation = Deviation()
    deviation.add(np.zeros((1, 2), np.float32), -np.zeros((1, 2), np.float32))
    assert not deviation.exact and deviation.largest == 0


@pytest.mark.parametrize("block", [1, 200, 4 << 20])
def test_all_that_a_source_has_goes_along(source, tmp_path, monkeypatch, block):
    monkeypatch.setattr("datasets.conversion.writer._BLOCK_BYTES", block)
    monkeypatch.setattr("datasets.conversion.writer._RECORD_BYTES", 1)
    store, deviation = convert(source, tmp_path / "a.h5")
    assert deviation.exact and "bit for bit" in deviation.describe()
    assert store.image_ids == source.image_ids
    for row in range(4):
        check_equal(store[row], source[row])
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.h5"]


def test_a_gzipped_source_is_read_from_beginning_to_end_a_few_times(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.features.positional._BLOCK_BYTES", 300)
    monkeypatch.setattr("datasets.features.positional._WINDOW_BYTES", 4000)
    monkeypatch.setattr("datasets.features.positional._SCAN_BYTES", 1000)
    monkeypatch.setattr("datasets.features.tsv._LONGEST_LINE", 1000)
    for module in ("conversion.writer", "features.store"):
        monkeypatch.setattr(f"datasets.{module}._BLOCK_BYTES", 1000)
    images = make_regions([3, 5, 4] * 30)
    path = write_tsv(tmp_path / "features.tsv", images, "lxmert")
    packed = tmp_path / "features.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    read, bytes_read = gzip.GzipFile.read, []

    def count(file, size):
        block = read(file, size)
        bytes_read.append(len(block))
        return block

    monkeypatch.setattr(gzip.GzipFile, "read", count)
    source = TsvFeatures(packed)
    store, deviation = convert(source, tmp_path / "a.h5")
    assert deviation.exact and sum(bytes_read) < 8 * path.stat().st_size
    assert len(source._file._window) < 2 * 4000 + 1000 + 300
    for row in (0, 50, 89):
        check_equal(store[row], images[f"image {row}"])


def test_images_of_equally_many_regions_go_to_npy_and_back(tmp_path):
    images = make_regions([5, 5, 5])
    source = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))
    (tmp_path / "npy").mkdir()
    npy, deviation = convert(source, tmp_path / "npy" / "dev_ims.npy")
    assert deviation.exact
    assert sorted(path.name for path in (tmp_path / "npy").iterdir()) == [
        *("dev_boxes.npy", "dev_ids.txt", "dev_ims.npy", "dev_sizes.npy", "dev_tags.txt"),
    ]
    assert (tmp_path / "npy/dev_ids.txt").read_text().splitlines() == list(images)
    array = np.load(tmp_path / "npy/dev_ims.npy")
    np.testing.assert_array_equal(array, [regions.features for regions in images.values()])
    boxes = np.load(tmp_path / "npy/dev_boxes.npy")
    np.testing.assert_array_equal(boxes, [regions.boxes for regions in images.values()])
    store, deviation = convert(npy, tmp_path / "back.h5")
    assert deviation.exact and store.image_ids == list(images)
    for name, row in store.row_of.items():
        check_equal(store[row], images[name])


def test_global_features_stay_global(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    np.save(tmp_path / "a_ims.npy", values)
    store, deviation = convert(NpyFeatures(tmp_path / "a_ims.npy"), tmp_path / "a.h5", "float16")
    assert deviation.exact and store.max_regions is None and store.image_ids is None
    back, _ = convert(store, tmp_path / "b.npy", "float16")
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a_ims.npy").read_bytes()
    assert len(back) == 5 and not (tmp_path / "b_ids.txt").exists()


def test_images_without_tags_or_with_none_seen_are_told_apart(tmp_path):
    np.save(tmp_path / "a_ims.npy", np.ones((3, 2, 4), np.float32))
    (tmp_path / "a_tags.txt").write_text('dog tree\n\n{"tags": ["traffic light"], "confidences": [0.25]}\n')
    store, _ = convert(open_features(tmp_path / "a_ims.npy"), tmp_path / "a.h5")
    assert [store[row].tags for row in range(3)] == [["dog", "tree"], [], ["traffic light"]]
    assert store[2].confidences is None and store[0].boxes is None  # not known of each image


def test_a_value_beyond_float16_names_its_row_and_leaves_nothing(tmp_path):
    values = np.ones((4, 3), np.float32)
    values[2, 1] = 70000
    np.save(tmp_path / "a.npy", values)
    source = NpyFeatures(tmp_path / "a.npy")
    check_refused(
        lambda: convert(source, tmp_path / "a.h5", "float16"), ["a.npy: row 3 holds 70000", "--dtype float32"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_ragged_images_and_int8_do_not_fit_npy(source, tmp_path):
    check_refused(lambda: convert(source, tmp_path / "a.npy"), ["a.npy: images have 1 to 12 regions"])
    check_refused(lambda: convert(source, tmp_path / "a.npy", "int8"), ["int8 needs its scales"])
    check_refused(lambda: convert(source, tmp_path / "a.txt"), ["a.txt: expected a name that ends with .h5"])
    assert not list(tmp_path.glob("*.partial"))


class KillError(Exception):
    """Stands for the end of the process by a kill."""


def interrupted(monkeypatch, after):
    """Make a conversion end after this many images, as a kill would."""
    calls = []

    def progress(*step):
        calls.append(step)
        if len(calls) >= after:
            raise KillError

    return progress


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("datasets.conversion.writer._BLOCK_BYTES", 1)  # an image at a time
    monkeypatch.setattr("datasets.conversion.writer._RECORD_BYTES", 1)


def test_an_interrupted_conversion_goes_on_to_the_same_bytes(source, tmp_path, monkeypatch, small_blocks):
    convert(source, tmp_path / "whole.h5", "int8")
    target = tmp_path / "a.h5"
    contents = read_contents(source)
    for after in (1, 2):
        draft = FeatureDraft(target, source, contents, "int8")
        with pytest.raises(KillError):
            draft.write(interrupted(monkeypatch, after))
        draft.close()
        assert not target.exists()
    draft = FeatureDraft(target, source, contents, "int8")
    assert draft.images_done == 3
    written = []
    draft.write(lambda *step: written.append(step))
    assert written == [("writing", 4, 4)]
    draft.finish()
    assert target.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not partial_folder(target).exists()


def test_what_is_not_recorded_is_written_again(source, tmp_path, monkeypatch, small_blocks):
    target = tmp_path / "a.h5"
    contents = read_contents(source)
    draft = FeatureDraft(target, source, contents, "float32")
    with pytest.raises(KillError):
        draft.write(interrupted(monkeypatch, 3))
    draft.close()
    record = draft.folder / "progress.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "images_done": 1}))
    with h5py.File(draft.path, "r+") as file:  # a kill in the middle of a write
        file["features"][4:] = 7
    store, deviation = convert(source, target)
    assert deviation.exact
    check_equal(store[2], source[2])


CHANGES = {
    "another type": lambda target, source: (source, "float16"),
    "another source": lambda target, source: (os.utime(source.path, ns=(1, 1)), (source, "float32"))[1],
    "a record that is none": lambda target, source: (
        (partial_folder(target) / "progress.json").write_text("[]"),
        (source, "float32"),
    )[1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_conversion_left_is_not_built_on(source, tmp_path, monkeypatch, small_blocks, change):
    target = tmp_path / "a.h5"
    draft = FeatureDraft(target, source, read_contents(source), "float32")
    with pytest.raises(KillError):
        draft.write(interrupted(monkeypatch, 2))
    draft.close()
    source, dtype = CHANGES[change](target, source)
    again = FeatureDraft(target, source, read_contents(source), dtype)
    assert again.images_done == 0


def test_nothing_that_a_killed_conversion_left_keeps_the_folder(source, tmp_path):
    partial_folder(tmp_path / "a.h5").mkdir()
    (partial_folder(tmp_path / "a.h5") / ".progress.json.99.new").write_text("{")
    convert(source, tmp_path / "a.h5")
    assert not partial_folder(tmp_path / "a.h5").exists()


def test_two_conversions_to_one_target_do_not_meet(source, tmp_path):
    contents = read_contents(source)
    draft = FeatureDraft(tmp_path / "a.h5", source, contents, "float32")
    check_refused(
        lambda: FeatureDraft(tmp_path / "a.h5", source, contents, "float32"),
        ["a.h5.partial: another process is writing it"],
    )
    draft.discard()
    FeatureDraft(tmp_path / "a.h5", source, contents, "float32").discard()


def test_a_full_disk_keeps_what_is_written(source, tmp_path, monkeypatch, small_blocks):
    draft = FeatureDraft(tmp_path / "a.h5", source, read_contents(source), "float32")
    write, calls = os.pwrite, []

    def pwrite(*arguments):
        calls.append(arguments)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr("os.pwrite", pwrite)
    check_refused(draft.write, ["a.h5.partial: No space left on device", "goes on from there"])
    draft.close()
    monkeypatch.undo()
    assert not (tmp_path / "a.h5").exists()
    assert FeatureDraft(tmp_path / "a.h5", source, read_contents(source), "float32").images_done == 2


@pytest.mark.parametrize("name", ["features", "boxes", "scales"])
def test_a_byte_that_the_disk_lost_is_found(source, tmp_path, name):
    contents = read_contents(source)
    draft = FeatureDraft(tmp_path / "a.h5", source, contents, "int8")
    draft.write()
    with h5py.File(draft.path, "r+") as file:
        file[name][17] += 1
    check_refused(
        lambda: compare(source, Hdf5Features(draft.path), contents.ids, "int8"),
        ["boxes of row 4" if name == "boxes" else "features of row 4", "are not what was written"],
    )


def test_replacing_leaves_no_file_of_the_target_before(tmp_path):
    images = make_regions([5, 5, 5])
    source = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "lxmert"))
    convert(source, tmp_path / "dev_ims.npy")
    np.save(tmp_path / "plain.npy", np.ones((2, 3), np.float32))
    convert(NpyFeatures(tmp_path / "plain.npy"), tmp_path / "dev_ims.npy")
    names = file_names(tmp_path / "dev_ims.npy")
    assert names == [
        "dev_ids.txt",
        "dev_tags.txt",
        "dev_boxes.npy",
        "dev_sizes.npy",
        "dev_extraction.json",
        "dev_ims.npy",
    ]
    assert [name for name in names if (tmp_path / name).exists()] == ["dev_ims.npy"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("butd_tsv/train2014_obj36.tsv.gz", "float32"),
        ("natural_oscar/dev_features.tsv", "float32"),
        ("natural_regions_precomp/dev_ims.npy", "float16"),
        ("natural_precomp/dev_ims.npy", "float16"),
    ],
)
def test_genuine_files_go_to_hdf5_and_to_npy_bit_for_bit(shared, tmp_path, name, dtype):
    path = shared / "data" / name
    source = TsvFeatures(path) if path.suffix == ".gz" else open_features(path)
    store, there = convert(source, tmp_path / "a.h5", dtype)
    back, andback = convert(store, tmp_path / "b_ims.npy", dtype)
    assert there.exact and andback.exact
    if path.suffix == ".npy":
        assert (tmp_path / "b_ims.npy").read_bytes() == path.read_bytes()
    for row in range(0, len(source), 9):
        np.testing.assert_array_equal(back[row].features, source[row].features)
        assert back[row].tags == source[row].tags


@pytest.mark.parametrize("name", ["butd_tsv/train2014_obj36.tsv.gz", "natural_regions_precomp/dev_ims.npy"])
def test_int8_of_genuine_features_errs_by_half_a_step_at_most(shared, tmp_path, name):
    path = shared / "data" / name
    source = TsvFeatures(path) if path.suffix == ".gz" else open_features(path)
    _, deviation = convert(source, tmp_path / "a.h5", "int8")
    assert not deviation.exact
    assert 0.9 / 254 < deviation.largest_share <= 1.0001 / 254
    assert deviation.total_share / deviation.count < 0.25 / 100


@pytest.mark.parametrize("size", [10, 65_300, 65_480, 200_000])
def test_the_record_of_an_extraction_goes_with_the_features_whatever_its_size(tmp_path, size):
    np.save(tmp_path / "plain.npy", np.ones((2, 3), np.float32))
    record = {"backbone": {"model": "m" * size}, "options": [False, None]}
    (tmp_path / "plain_extraction.json").write_text(json.dumps(record))
    for target in ("a.h5", "b_ims.npy"):
        convert(NpyFeatures(tmp_path / "plain.npy"), tmp_path / target)
        assert open_features(tmp_path / target).extraction == record
    convert(open_features(tmp_path / "a.h5"), tmp_path / "again.npy")
    assert open_features(tmp_path / "again.npy").extraction == record


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_record_that_is_none_is_refused(tmp_path, content):
    np.save(tmp_path / "plain.npy", np.ones((2, 3), np.float32))
    (tmp_path / "plain_extraction.json").write_text(content)
    expected = " line 1: a byte of zero" if content == "\x00" else ": expected the record of an extraction"
    check_refused(lambda: NpyFeatures(tmp_path / "plain.npy"), [f"plain_extraction.json{expected}"])
