"""Boxes come to lie in the picture's pixels, and a guess is said."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from serving.reports.pictures import PictureFolder
from serving.reports.region_view import GRID_CANVAS, grid_boxes, region_view

BOXES = np.array([[0, 0, 20, 10], [10, 10, 40, 30]], np.float32)


def regions(boxes=BOXES, tags=None, image_size=None, count=None) -> SimpleNamespace:
    features = np.zeros((len(boxes) if count is None else count, 8), np.float32)
    return SimpleNamespace(features=features, boxes=boxes, tags=tags, image_size=image_size)


def test_boxes_in_pixels_of_the_picture_stay(pictures):
    view, notes = region_view("image_0", regions(tags=["dog", "red cat"]), pictures)
    assert view.picture.size == (40, 30) and np.array_equal(view.boxes, BOXES)
    assert (list(view.labels), notes) == (["1 dog", "2 red cat"], [])


def test_regions_without_tags_are_numbered(pictures):
    assert region_view("image_0", regions(), pictures)[0].labels == ["1", "2"]


def test_boxes_of_a_larger_image_are_scaled_by_its_size(pictures):
    view, notes = region_view("image_0", regions(image_size=(80, 120)), pictures)
    assert np.allclose(view.boxes, BOXES * [0.5, 0.25, 0.5, 0.25]) and notes == []


def test_boxes_that_reach_outside_the_picture_are_shrunk_and_it_is_said(pictures):
    view, notes = region_view("image_0", regions(BOXES * 4), pictures)
    assert np.allclose(view.boxes, BOXES)
    assert len(notes) == 1
    assert "reach 160 x 120 pixels, the picture has 40 x 30: they are drawn at 0.25" in notes[0]


@pytest.mark.parametrize(("image_size", "canvas"), [(None, (40, 30)), ((64, 48), (64, 48))])
def test_without_a_picture_the_boxes_stand_on_grey(image_size, canvas):
    view, notes = region_view("image_0", regions(image_size=image_size), PictureFolder(None))
    assert view.picture.size == canvas and len(view.picture.getcolors()) == 1
    assert np.allclose(view.boxes, BOXES)
    assert "no picture of image_0: drawn on grey; name the folder" in notes[0]


def test_a_picture_that_its_folder_lacks_is_named(pictures, tmp_path):
    assert f"no picture of other in {tmp_path}:" in region_view("other", regions(), pictures)[1][0]


def test_regions_without_boxes_are_a_grid_over_the_picture(pictures):
    view, notes = region_view("image_0", regions(boxes=None, count=4), pictures)
    expected = [[0, 0, 20, 15], [20, 0, 40, 15], [0, 15, 20, 30], [20, 15, 40, 30]]
    assert view.boxes.tolist() == expected
    assert notes == ["no boxes are stored: the 4 regions are drawn as a grid of 2 x 2, row by row"]
    assert region_view("x", regions(boxes=None, count=4), PictureFolder(None))[0].picture.size == GRID_CANVAS


def test_a_grid_covers_the_picture_once():
    boxes = grid_boxes("x", 9)
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() == pytest.approx(1)
    assert len({tuple(box) for box in boxes.tolist()}) == 9


def test_regions_that_are_no_grid_need_boxes(pictures):
    with pytest.raises(
        UserError, match="boxes of its 12 regions, got none, and 12 is not a square.*_boxes.npy"
    ):
        region_view("image_0", regions(boxes=None, count=12), pictures)


def test_a_box_that_is_no_number_is_refused(pictures):
    with pytest.raises(UserError, match="image_0: a box holds NaN"):
        region_view("image_0", regions(np.full((2, 4), np.nan)), pictures)


def test_a_broken_picture_is_refused(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"broken.png cannot be opened as a picture"):
        region_view("broken", regions(), PictureFolder(tmp_path))


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert region_view("turned", regions(), PictureFolder(tmp_path))[0].picture.size == (30, 40)


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_one_vector_has_no_parts_to_show(pictures, shape):
    whole = SimpleNamespace(features=np.zeros(shape), boxes=None, tags=None, image_size=None)
    with pytest.raises(UserError, match="image_0: expected features of two regions or more, got one vector"):
        region_view("image_0", whole, pictures)
