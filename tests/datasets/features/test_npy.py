"""Feature files are read exactly and lazily; broken ones are refused on one line."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from config.errors import UserError
from datasets.features.npy import NpyFeatures
from datasets.features.store import half_to_single
from tests.closeness import assert_close
from tests.region_files import check_refused


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(50, 7), (50, 3, 5)])
def test_gather_reads_the_rows_asked_for_in_their_order(tmp_path, dtype, shape):
    stored = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.save(tmp_path / "train_ims.npy", stored)
    features = NpyFeatures(tmp_path / "train_ims.npy")
    rows = np.array([49, 0, 7, 7, 3])

    read = features.gather(rows, pool=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, stored[rows].astype(np.float32))

    pooled = features.gather(rows, pool=True)
    by_hand = [np.mean(np.float64(stored[row]), axis=0) if len(shape) == 3 else stored[row] for row in rows]
    assert_close(pooled, by_hand, shape[-2] if len(shape) == 3 else 1, np.abs(stored).max())


def test_shape_is_known_without_reading(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 2), np.float16))
    features = NpyFeatures(tmp_path / "a.npy", expected_dim=2)
    assert (len(features), features.max_regions, features.dim, features.shape) == (5, 3, 2, (5, 3, 2))


def test_every_finite_float16_converts_exactly():
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)]
    # compared as bits, so that -0.0 and subnormal numbers count
    expected = half.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(half_to_single(half).view(np.uint32), expected)


def test_a_file_larger_than_memory_is_never_loaded_whole(tmp_path):
    path = tmp_path / "huge_ims.npy"
    shape = (100_000, 36, 2048)  # 14 GB, of which the disk holds nothing: the rows are a hole in the file
    with open(path, "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * int(np.prod(shape)))
    features = NpyFeatures(path)
    tracemalloc.start()
    pooled = features.gather(np.array([99_999, 5, 50_000]), pool=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pooled.shape == (3, 2048) and not pooled.any()
    assert peak < 8 * 2**20


def test_threads_may_gather_together(tmp_path):
    stored = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float16)
    np.save(tmp_path / "a.npy", stored)
    features = NpyFeatures(tmp_path / "a.npy")
    batches = [np.random.default_rng(seed).integers(0, 200, size=32) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        reads = pool.map(lambda rows: features.gather(rows, False), batches)
        for rows, read in zip(batches, reads, strict=True):
            np.testing.assert_array_equal(read, stored[rows])


@pytest.mark.parametrize("shape", [(3000, 40), (3000, 4, 40)])
def test_moments_match_numpy_on_the_whole_array(tmp_path, monkeypatch, shape):
    monkeypatch.setattr("datasets.features.store._BLOCK_BYTES", 70_000)  # several blocks
    stored = np.random.default_rng(0).normal(5, 2, size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", stored)
    mean, std = NpyFeatures(tmp_path / "a.npy").moments()
    pooled = stored.astype(np.float64).reshape(3000, -1, 40).mean(axis=1)
    # Sums are in double precision; what is left is rounding the regions' mean, and the result.
    assert_close(mean, pooled.mean(axis=0), 6)
    assert_close(std, pooled.std(axis=0), 6, scale=7)
    mean, std = NpyFeatures(tmp_path / "a.npy").moments(pool=False)
    every = stored.astype(np.float64).reshape(-1, 40)
    assert_close(mean, every.mean(axis=0), 1)
    assert_close(std, every.std(axis=0), 1, scale=7)


def test_repeated_rows_are_found_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.features.store._BLOCK_BYTES", 3 * 4 * 8)  # three rows a block
    images = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", images[[0, 0, 0, 0, 1, 2, 2, 3]])
    repeats = NpyFeatures(tmp_path / "a.npy").repeats_previous()
    assert repeats.tolist() == [False, True, True, True, False, False, True, False]


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[:200])


def text_instead(path):
    path.write_text("1.0 2.0\n")


BROKEN = {
    "missing": (lambda path: path.unlink(), ["no such file", "dev_ims.npy"]),
    "cut short": (cut_in_half, ["cut short", "expected 224 bytes", "got 200"]),
    "not an array": (text_instead, ["not a .npy file"]),
    "objects": (lambda path: np.save(path, np.array([[None]])), ["expected float16", "got object"]),
    "integers": (lambda path: np.save(path, np.ones((2, 2), int)), ["expected float16", "got int64"]),
    "two bytes": (
        lambda path: np.save(path, np.ones((2, 2), "V2")),
        ["numbers without a type, as bfloat16 is saved"],
    ),
    "columns first": (lambda path: np.save(path, np.asfortranarray(np.ones((3, 2)))), ["C order"]),
    "a vector": (lambda path: np.save(path, np.ones(4)), ["[images, features]", "got [4]"]),
    "no rows": (lambda path: np.save(path, np.ones((0, 4))), ["got [0, 4]"]),
    "other width": (lambda path: np.save(path, np.ones((4, 7))), ["7 wide", "IMG_FEATURE_DIM=7", "is 6"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_with_one_line(tmp_path, fault):
    break_file, expected = BROKEN[fault]
    np.save(tmp_path / "dev_ims.npy", np.ones((4, 6)))
    path = tmp_path / "train_ims.npy"
    np.save(path, np.ones((4, 6), np.float32))
    break_file(path)
    with pytest.raises(UserError) as error:
        NpyFeatures(path, expected_dim=6)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.filterwarnings("ignore:overflow")
def test_nan_and_infinity_name_the_file_and_the_row(tmp_path, dtype, shape, value):
    stored = np.ones(shape, dtype)
    stored[4].flat[1] = value
    np.save(tmp_path / "train_ims.npy", stored)
    features = NpyFeatures(tmp_path / "train_ims.npy")
    assert features.gather(np.array([0, 3, 5]), pool=True).shape == (3, 4)
    gathers = [partial(features.gather, np.array([0, 4]), pool=pool) for pool in (True, False)]
    for read in (*gathers, features.moments):
        with pytest.raises(UserError, match="train_ims.npy: row 5 holds NaN or infinity"):
            read()


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path):
    path = tmp_path / "train_ims.npy"
    np.save(path, np.ones((4, 6), np.float32))
    features = NpyFeatures(path)
    cut_in_half(path)
    with pytest.raises(UserError, match="row 4 ends too early"):
        features.gather(np.array([3]), pool=True)


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)])
def test_a_check_reads_every_row(tmp_path, monkeypatch, shape):
    monkeypatch.setattr("datasets.features.store._BLOCK_BYTES", 64)  # a few rows at a time
    stored = np.ones(shape, np.float32)
    path = tmp_path / "train_ims.npy"
    np.save(path, stored)
    NpyFeatures(path).check()
    stored[5].flat[-1] = np.nan
    np.save(path, stored)
    with pytest.raises(UserError, match="train_ims.npy: row 6 holds NaN or infinity"):
        NpyFeatures(path).check()


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    np.save(tmp_path / "train_ims.npy", np.ones((4, 6)))
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="train_ims.npy: cannot be read: Permission denied"):
        NpyFeatures(tmp_path / "train_ims.npy")


def test_a_name_that_is_too_long_is_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        NpyFeatures(tmp_path / f"{'x' * 300}_ims.npy")


def test_a_large_file_is_checked_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.features.store._CHECKED_AHEAD_BYTES", 100)
    np.save(tmp_path / "train_ims.npy", np.full((10, 8), np.nan, np.float32))
    features = NpyFeatures(tmp_path / "train_ims.npy")
    features.check()
    with pytest.raises(UserError, match="row 3"):
        features.gather(np.array([2]), pool=False)


def write_regions(folder):
    """Write two images of three regions, with boxes; return them."""
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.save(folder / "dev_ims.npy", values)
    np.save(folder / "dev_boxes.npy", boxes)
    return values, boxes


def test_an_image_comes_with_the_boxes_and_tags_beside_it(tmp_path):
    values, boxes = write_regions(tmp_path)
    (tmp_path / "dev_tags.txt").write_text(
        'traffic light\n{"tags": ["traffic light", "dog"], "confidences": [0.5, 0.25]}\n'
    )
    store = NpyFeatures(tmp_path / "dev_ims.npy")
    for row in range(2):
        np.testing.assert_array_equal(store[row].features, values[row].astype(np.float32))
        np.testing.assert_array_equal(store[row].boxes, boxes[row])
    assert store[0].tags == ["traffic", "light"] and store[0].confidences is None
    assert store[1].tags == ["traffic light", "dog"] and store[1].confidences.tolist() == [0.5, 0.25]
    assert store[1].image_size is None and len(list(store)) == 2
    assert not list(tmp_path.glob("*.lineidx"))


BROKEN_BESIDE = {
    "boxes of others": (
        "boxes",
        np.ones((3, 3, 4)),
        ["dev_boxes.npy: expected boxes [2, 3, 4]", "got [3, 3, 4]"],
    ),
    "boxes with NaN": ("boxes", np.full((2, 3, 4), np.nan), ["dev_boxes.npy: row 2 holds NaN"]),
    "a line too few": ("tags", "dog\n", ["dev_tags.txt: 1 lines", "2 rows"]),
    "no JSON": ("tags", 'dog\n{"tags"\n', ["dev_tags.txt line 2", "got b'{\"tags\"'"]),
    "no tags": ("tags", 'dog\n{"labels": []}\n', ["dev_tags.txt line 2"]),
    "confidences too few": ("tags", 'dog\n{"tags": ["a"], "confidences": []}\n', ["dev_tags.txt line 2"]),
    "not UTF-8": ("tags", b"dog\n\xff\n", ["dev_tags.txt line 2"]),
}


@pytest.mark.parametrize("fault", BROKEN_BESIDE)
def test_broken_files_beside_the_features_are_refused(tmp_path, fault):
    kind, content, expected = BROKEN_BESIDE[fault]
    write_regions(tmp_path)
    if kind == "boxes":
        np.save(tmp_path / "dev_boxes.npy", content)
    else:
        (tmp_path / "dev_tags.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    store = NpyFeatures(tmp_path / "dev_ims.npy")
    assert store.gather(np.array([1]), pool=True).shape == (1, 4)
    check_refused(lambda: store[1], expected)


def test_rows_are_named_by_a_line_each_or_a_line_a_caption(tmp_path):
    write_regions(tmp_path)
    ids = tmp_path / "dev_ids.txt"
    for text in ("b\na\n", "b\nb\na\n"):
        ids.write_text(text)
        store = NpyFeatures(tmp_path / "dev_ims.npy", ids_path=ids)
        assert store.image_ids == ["b", "a"] and store.row_of == {"b": 0, "a": 1}
    assert NpyFeatures(tmp_path / "dev_ims.npy").image_ids is None
    ids.write_text("b\n")
    check_refused(
        lambda: NpyFeatures(tmp_path / "dev_ims.npy", ids_path=ids), ["dev_ids.txt: 1 different", "2 rows"]
    )
    ids.write_text("b\nb\n")
    check_refused(
        lambda: NpyFeatures(tmp_path / "dev_ims.npy", ids_path=ids), ["dev_ids.txt line 2: duplicate"]
    )


@pytest.mark.parametrize("rows", [[2], [-1], [0, 5]])
def test_rows_that_are_not_there_are_no_rows(tmp_path, rows):
    write_regions(tmp_path)
    with pytest.raises(IndexError):
        NpyFeatures(tmp_path / "dev_ims.npy").gather(np.array(rows), pool=False)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_big_endian_numbers_are_read(tmp_path, kind):
    values = np.arange(24).reshape(4, 2, 3) / 3
    np.save(tmp_path / "x.npy", values.astype(f">{kind}"))
    store = NpyFeatures(tmp_path / "x.npy")
    assert store.dtype == np.dtype(kind) and store.dtype.isnative
    found = store.gather(np.array([3, 0]), pool=False)
    np.testing.assert_array_equal(found, values[[3, 0]].astype(kind).astype(np.float32))
