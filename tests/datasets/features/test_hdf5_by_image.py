"""HDF5 files with data sets of each image, as published detections have them."""

import pickle

import h5py
import numpy as np
import pytest

from config.errors import UserError
from datasets.features.formats import open_features
from datasets.features.hdf5_by_image import Hdf5ByImage
from tests.region_files import make_regions


def write(path, images, boxes=True):
    with h5py.File(path, "w") as file:
        for name, regions in images.items():
            file[f"{name}_features"] = regions.features
            file[f"{name}_cls_prob"] = np.zeros((len(regions.features), 5), np.float32)
            if boxes:
                file[f"{name}_boxes"] = regions.boxes
    return path


@pytest.mark.parametrize("boxes", [True, False])
def test_each_image_has_its_own_data_sets(tmp_path, boxes):
    regions = list(make_regions([3, 0, 12, 7]).values())
    images = dict(zip(["10", "9", "100", "2"], regions, strict=True))
    store = open_features(write(tmp_path / "detections.hdf5", images, boxes))
    assert isinstance(store, Hdf5ByImage)
    assert store.image_ids == ["2", "9", "10", "100"], "by number"
    assert store.counts(np.arange(4)).tolist() == [7, 0, 3, 12]
    for reader in (store, pickle.loads(pickle.dumps(store))):  # noqa: S301
        for row, name in enumerate(store.image_ids):
            found = reader[row]
            np.testing.assert_array_equal(found.features, images[name].features)
            if boxes:
                np.testing.assert_array_equal(found.boxes, images[name].boxes)
            else:
                assert found.boxes is None


def test_global_vectors(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(3):
            file[f"img{number}_features"] = np.full(4, number, np.float16)
    store = open_features(tmp_path / "a.h5", 4)
    assert store.max_regions is None
    np.testing.assert_array_equal(store.gather(np.array([2, 0]), pool=True)[:, 0], [2, 0])


WRONG = {
    "another width": ({"b_features": np.zeros((2, 5), "f4")}, "features of 'b' are 5 wide, expected 6"),
    "whole numbers": ({"b_features": np.zeros((2, 6), "i4")}, "features of 'b' are int32"),
    "three axes": ({"b_features": np.zeros((1, 2, 6), "f4")}, "expected floats"),
    "a vector among regions": ({"b_features": np.zeros(6, "f4")}, "some images have one vector"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_does_not_fit_is_one_line(tmp_path, fault):
    content, expected = WRONG[fault]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in {"a_features": np.zeros((2, 6), "f4"), **content}.items():
            file[name] = values
    with pytest.raises(UserError, match=expected) as error:
        open_features(tmp_path / "a.h5")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_boxes_that_do_not_fit_are_one_line(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a_features"], file["a_boxes"] = np.zeros((2, 6), "f4"), np.zeros((3, 4), "f4")
    with pytest.raises(UserError, match=r"a_boxes are \[3, 4\], expected finite numbers \[2, 4\]"):
        open_features(tmp_path / "a.h5").annotations(0)


def test_a_message_that_lists_data_sets_is_short(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(1000):
            file[f"{number}_vector"] = np.zeros(3, "f4")
    with pytest.raises(UserError, match=r"no data set 'features' among .*, \.\.\. \(1000 in all\)"):
        open_features(tmp_path / "a.h5")
