"""Pictures become vectors, grids and regions: what each network sees, and what is made of its output."""

import contextlib

import numpy as np
import pytest

from config.errors import UserError
from datasets.conversion.extraction_folder import ExtractionFolder
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.pictures.transforms import Normalization, ResizeCentreCrop, Stretch, TenCrop
from engine.extraction.extractors import (
    GridExtractor,
    PooledExtractor,
    RegionExtractor,
    averages,
    extract_all,
    grid_boxes,
)
from engine.extraction.yolox import Yolox
from tests.closeness import SINGLE, assert_close
from tests.onnx_networks import yolox_output
from tests.picture_files import CORNERS, encoded, noisy, quarters, write_folder

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def means(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(2, 3))


def loader(tmp_path, pictures: dict[str, bytes], transform) -> PictureLoader:
    files = PictureFiles(write_folder(tmp_path / "pictures", pictures))
    return PictureLoader(files, files.names, transform, PLAIN, Unreadables(refuse=False))


@pytest.fixture
def three(tmp_path):
    """Return a folder's pictures, the second of them broken."""
    return {"a.png": encoded(noisy(64, 48)), "b.png": b"", "c.png": encoded(noisy(40, 60, seed=1))}


def test_vectors_are_means_over_views(tmp_path, three):
    reader = loader(tmp_path, three, TenCrop(24, 16))
    extractor = PooledExtractor(reader, lambda images: images[:, :, :2, :2])  # a map [B,3,2,2]
    found = extractor.extract(["a", "b", "c"], extractor.prepare([0, 1, 2]))
    images = reader.read([0, 2]).images
    assert [each.image_id for each in found] == ["a", "c"] and found[1].size == (40, 60)
    for each, ten in zip(found, images, strict=True):
        expected = np.mean([view[:, :2, :2].mean(axis=(1, 2)) for view in ten], axis=0)
        assert_close(each.vectors, expected[None], 10 + 4)  # means over ten views of four cells
        assert each.boxes is None and each.tags is None
    assert extractor.extract(["b"], extractor.prepare([1])) == []


@pytest.mark.parametrize(("length", "parts"), [(7, 7), (7, 1), (7, 3), (6, 3), (8, 5)])
def test_cells_are_averaged_as_adaptive_pooling_does(length, parts):
    values = np.random.default_rng(0).normal(size=length)
    expected = []
    for part in range(parts):
        start, end = int(np.floor(part * length / parts)), int(np.ceil((part + 1) * length / parts))
        expected.append(np.mean(values[start:end]))
    found = averages(length, parts)  # float32
    assert_close(found @ values, expected, length, np.abs(found) @ np.abs(values), unit=SINGLE)


def test_boxes_of_a_grid_cover_what_the_map_shows():
    boxes = grid_boxes(np.array([[10.0, 20.0, 50.0, 60.0]]), 4, 4, side=2)
    assert boxes.tolist() == [[[10, 20, 30, 40], [30, 20, 50, 40], [10, 40, 30, 60], [30, 40, 50, 60]]]


def test_regions_of_a_grid_are_what_their_boxes_show(tmp_path):
    reader = loader(tmp_path, {"a.png": encoded(quarters(64, 64))}, ResizeCentreCrop(64, 32))
    extractor = GridExtractor(reader, lambda images: images, side=2)
    (found,) = extractor.extract(["a"], extractor.prepare([0]))
    assert found.boxes.tolist() == [[16, 16, 32, 32], [32, 16, 48, 32], [16, 32, 32, 48], [32, 32, 48, 48]]
    np.testing.assert_array_equal(found.vectors, list(CORNERS.values()))


@pytest.mark.parametrize("network", [means, lambda images: images[:, :, :1, :1]])
def test_a_grid_needs_a_map_of_as_many_cells(tmp_path, three, network):
    extractor = GridExtractor(loader(tmp_path, three, Stretch(16)), network, side=2)
    with pytest.raises(UserError, match=r"--grid 2: the network makes \[3.* of a picture, expected"):
        extractor.extract(["a"], extractor.prepare([0]))


class SeenDetector:
    """Always finds the same, and keeps what it saw."""

    def __init__(self, found: list) -> None:
        self.output = yolox_output(found)
        self.seen: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(images)
        return self.output[None]


def region_extractor(
    reader: PictureLoader, detector: SeenDetector, classes: tuple[str, ...] = ("dog", "traffic light", "tree")
) -> RegionExtractor:
    plain = Normalization((0.0,) * 3, (1.0,) * 3, bgr=True)
    yolox = Yolox(detector, plain, size=32, strides=(8, 16), pad=114, classes=classes, overlap=0.45)
    return RegionExtractor(reader, means, crop=6, yolox=yolox, least_score=0.5, fewest=1, most=3)


def test_regions_are_parts_of_the_picture_with_its_own_pixels_as_boxes(tmp_path):
    # 64 x 48 is brought to 32 x 24: the right half, then a piece of the lower left quarter
    detector = SeenDetector([((2, 14, 14, 22), 2, 0.6), ((16, 0, 32, 24), 1, 0.9), ((0, 0, 8, 8), 0, 0.2)])
    reader = loader(tmp_path, {"a.png": encoded(quarters(64, 48)), "b.png": b""}, Stretch(6))
    extractor = region_extractor(reader, detector)
    (found,) = extractor.extract(["a", "b"], extractor.prepare([0, 1]))
    assert (found.image_id, found.size, found.tags) == ("a", (64, 48), ["traffic light", "tree"])
    np.testing.assert_allclose(found.confidences, [0.9, 0.6], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [[32, 0, 64, 48], [4, 28, 28, 44]], atol=1e-3)
    right = np.mean([CORNERS["upper right"], CORNERS["lower right"]], axis=0)
    np.testing.assert_allclose(found.vectors, [right, CORNERS["lower left"]], atol=6)  # edges reach over
    assert list(reader.unreadables.problems) == ["b.png"]


def test_a_region_up_to_the_edge_stays_within_the_picture(tmp_path):
    pictures = {f"{side}.png": encoded(quarters(side, 48)) for side in range(33, 97)}
    reader = loader(tmp_path, pictures, Stretch(6))
    extractor = region_extractor(reader, SeenDetector([((1, 1, 40, 40), 0, 0.9)]))
    indices = range(len(reader))
    for found in extractor.extract(reader.names, extractor.prepare(indices)):
        assert (found.boxes[:, 2:] <= found.size).all() and (
            found.boxes[:, 2:] > np.array(found.size) - 3
        ).all()


def test_the_detector_sees_the_picture_letterboxed_in_its_order_of_colours(tmp_path):
    detector = SeenDetector([((0, 0, 30, 20), 0, 0.9)])
    reader = loader(tmp_path, {"a.png": encoded(quarters(64, 48))}, Stretch(6))
    extractor = region_extractor(reader, detector)
    extractor.extract(["a"], extractor.prepare([0]))
    (seen,) = detector.seen
    assert seen.shape == (1, 3, 32, 32) and (seen[0, :, 24:] == 114).all()
    assert seen[0, :, 4, 4].tolist() == list(CORNERS["upper left"][::-1])
    assert seen[0, :, 20, 28].tolist() == list(CORNERS["lower right"])


def test_a_picture_in_which_nothing_is_found_is_one_region_without_tags(tmp_path):
    reader = loader(tmp_path, {"a.png": encoded(quarters(64, 48))}, Stretch(6))
    extractor = region_extractor(reader, SeenDetector([]))
    (found,) = extractor.extract(["a"], extractor.prepare([0]))
    assert found.boxes.tolist() == [[0, 0, 64, 48]] and found.tags == [] and found.confidences == []


def test_a_detector_with_other_classes_is_one_line(tmp_path):
    reader = loader(tmp_path, {"a.png": encoded(quarters(64, 48))}, Stretch(6))
    extractor = region_extractor(reader, SeenDetector([]), classes=("dog",))
    with pytest.raises(UserError, match=r"does not fit its YAML file: expected \[20, 6\], .*got \[20, 8\]"):
        extractor.extract(["a"], extractor.prepare([0]))


def test_nan_is_refused_with_the_picture_and_not_recorded(tmp_path, three):
    reader = loader(tmp_path, three, Stretch(8))
    extractor = PooledExtractor(reader, lambda images: means(images) * np.nan)
    with contextlib.closing(ExtractionFolder(tmp_path / "a.h5", {})) as folder:
        with pytest.raises(UserError, match="a: the network makes NaN or infinity of this picture"):
            extract_all(extractor, ["a", "b", "c"], folder, 2, 0)
        assert folder.done == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_extraction_goes_on_where_it_stopped(tmp_path, workers):
    pictures = {f"{n}.png": b"" if n == 3 else encoded(noisy(32, 24, seed=n)) for n in range(7)}
    reader = loader(tmp_path, pictures, Stretch(8))
    ids = [name.removesuffix(".png") for name in reader.names]
    told: list[tuple[str, int, int]] = []

    def stop_after_two_batches(images: np.ndarray) -> np.ndarray:
        if told and told[-1][1] == 4:
            raise KeyboardInterrupt
        return means(images)

    def run(network, target: str) -> ExtractionFolder:
        with contextlib.closing(ExtractionFolder(tmp_path / target, {})) as folder:
            extract_all(
                PooledExtractor(reader, network), ids, folder, 2, workers, lambda *step: told.append(step)
            )
        return folder

    whole = run(means, "whole.h5").store()
    assert told == [("extracting", done, 7) for done in (2, 4, 6, 7)]
    assert whole.image_ids == ["0", "1", "2", "4", "5", "6"]
    told.clear()
    with pytest.raises(KeyboardInterrupt):
        run(stop_after_two_batches, "a.h5")
    resumed = run(means, "a.h5")
    assert told == [("extracting", done, 7) for done in (2, 4, 6, 7)]
    assert resumed.problems == {"3": "zero bytes"}
    np.testing.assert_array_equal(
        resumed.store().vectors(np.arange(6)).view(np.uint32), whole.vectors(np.arange(6)).view(np.uint32)
    )
