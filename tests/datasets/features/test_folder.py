"""A folder with a .npy file for each image is a feature store, and what does not fit is named."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.features.folder import FolderFeatures, read_one


@pytest.mark.parametrize("regions", [None, (2, 3, 1)])
def test_a_file_for_each_image_is_read_by_row(tmp_path, regions):
    random = np.random.default_rng(0)
    shapes = [(4,)] * 3 if regions is None else [(count, 4) for count in regions]
    images = [random.normal(size=shape).astype(np.float16) for shape in shapes]
    for name, image in zip("cab", images, strict=True):
        np.save(tmp_path / f"{name}.npy", image)
    store = FolderFeatures(tmp_path, 4)
    assert store.image_ids == ["a", "b", "c"] and len(store) == 3
    assert store.max_regions == (None if regions is None else 3)
    expected = [np.atleast_2d(images["cab".index(name)]).astype(np.float32).mean(axis=0) for name in "ba"]
    np.testing.assert_allclose(store.gather(np.array([1, 0]), pool=True), expected, rtol=1e-6)


def test_files_that_differ_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 4), np.float32))
    np.save(tmp_path / "b.npy", np.ones(4, np.float32))
    with pytest.raises(UserError, match=r"b.npy: expected \[R,4\], as a.npy has it, got \[4\]"):
        FolderFeatures(tmp_path)
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="b.npy is not a .npy file"):
        FolderFeatures(tmp_path)


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(UserError, match="no .npy files"):
        FolderFeatures(tmp_path)


UNFIT = {
    "another width": (np.ones(5), r"expected numbers of shape \[8\] or \[R,8\].*got float64 of shape \[5\]"),
    "a single number": (np.array(3.0), r"got float64 of shape \[\]"),
    "no rows": (np.ones((0, 8)), r"got float64 of shape \[0, 8\]"),
    "text": (np.array(["a"] * 8), r"got <U1 of shape \[8\]"),
    "complex": (np.ones(8, complex), "got complex128"),
    "not a number": (np.full((2, 8), [[1.0], [np.nan]]), "row 2 holds NaN or infinity"),
    "beyond float32": (np.full(8, 1e300), "row 1 holds NaN or infinity"),
    "objects": (np.array([{}] * 8), "is not a .npy file .*Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_features_that_do_not_fit_are_refused(tmp_path, fault):
    features, expected = UNFIT[fault]
    np.save(tmp_path / "query.npy", features)
    with pytest.raises(UserError, match=f"query.npy.*{expected}"):
        read_one(tmp_path / "query.npy", 8)


@pytest.mark.parametrize("content", [b"", b"features", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x76\x00{"])
def test_a_file_that_holds_no_array_is_refused(tmp_path, content):
    (tmp_path / "query.npy").write_bytes(content)
    expected = "query.npy( is not a .npy file|: an empty file|: a zip that is cut)"
    with pytest.raises(UserError, match=expected):
        read_one(tmp_path / "query.npy", 8)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.npy cannot be read: No such file"):
        read_one(tmp_path / "nowhere.npy", 8)


@pytest.mark.parametrize(
    "damage", ["a zip file", "no header", "a header cut short", "a header without its end"]
)
def test_a_file_that_is_no_array_is_named_by_both_readers(tmp_path, damage):
    np.save(tmp_path / "a.npy", np.ones(4, np.float32))
    whole, path = (tmp_path / "a.npy").read_bytes(), tmp_path / "b.npy"
    if damage == "a zip file":
        with open(path, "wb") as file:  # numpy.load would open it
            np.savez(file, features=np.ones(4, np.float32))
    else:
        broken = {
            "no header": b"",
            "a header cut short": whole[:40],
            "a header without its end": whole.replace(b"}", b"("),
        }
        path.write_bytes(broken[damage])
    for read in (lambda: FolderFeatures(tmp_path), lambda: read_one(path, 4)):
        expected = {"a zip file": "b.npy: a zip of something else", "no header": "b.npy: an empty file"}
        with pytest.raises(UserError, match=expected.get(damage, "b.npy is not a .npy file")) as refused:
            read()
        assert "\n" not in str(refused.value)
