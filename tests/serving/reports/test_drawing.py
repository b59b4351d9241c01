"""Strokes are where the boxes are, heat adds up where they overlap, and labels do not hide each other."""

import numpy as np
import pytest
from PIL import Image

from serving.reports.drawing import (
    AGAINST,
    FOR,
    BoxedPicture,
    beside_bar,
    diverging,
    framed,
    heat_of,
    heated,
    labelled,
    linked,
    signed,
)
from serving.reports.lettering import font

GREEN = (0, 200, 0)


def view_of(boxes: list[list[float]], size: tuple[int, int] = (60, 40)) -> BoxedPicture:
    return BoxedPicture(
        Image.new("RGB", size, "white"), np.array(boxes), [str(n + 1) for n in range(len(boxes))]
    )


def marks(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what differs, right and bottom exclusive."""
    rows, columns = np.nonzero((np.asarray(before) != np.asarray(after)).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_frame_lies_inside_its_box_and_leaves_the_middle():
    view = view_of([[10, 5, 40, 30]])
    drawn = framed(view, 0, GREEN, 1.0).picture
    assert marks(view.picture, drawn) == (10, 5, 40, 30)
    assert drawn.getpixel((25, 17)) == (255, 255, 255)
    assert drawn.getpixel((10, 5)) == GREEN


def test_a_stronger_frame_is_wider_and_more_opaque():
    view = view_of([[0, 0, 60, 40]])
    weak, strong = (np.asarray(framed(view, 0, GREEN, s).picture, int) for s in (0.0, 1.0))
    assert (strong != 255).any(axis=2).sum() > 2 * (weak != 255).any(axis=2).sum()
    assert strong[0, 0, 0] < weak[0, 0, 0]


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([-9, -9, 900, 900], (0, 0, 60, 40)),
        ([70, 50, 90, 60], (59, 39, 60, 40)),
        ([20, 20, 20, 20], (20, 20, 21, 21)),
        ([10.4, 10.6, 20.4, 20.6], (10, 11, 20, 21)),
    ],
)
def test_any_box_has_pixels_of_the_picture(box, pixels):
    view = view_of([box])
    assert view.pixels(0) == pixels
    left, top, right, bottom = marks(view.picture, framed(view, 0, GREEN, 1.0).picture)
    assert left >= pixels[0] and top >= pixels[1] and right <= pixels[2] and bottom <= pixels[3]


def test_scaling_takes_the_boxes_along():
    view = view_of([[6, 4, 30, 40]]).scaled(120)
    assert view.picture.size == (120, 80)
    assert view.pixels(0) == (12, 8, 60, 80)


def test_a_line_joins_the_middles_of_two_boxes():
    view = view_of([[0, 0, 10, 10], [40, 20, 60, 40]])
    drawn = linked(view, 0, [1], [1.0], GREEN).picture
    for x, y in ((10, 9), (27, 17), (50, 30)):
        red, green, blue = drawn.getpixel((x, y))
        assert green > 150 and red < 100 and blue < 100, (x, y)
    assert drawn.getpixel((5, 35)) == (255, 255, 255)


def test_heat_adds_up_where_regions_overlap():
    view = view_of([[0, 0, 20, 20], [10, 10, 30, 30]])
    heat = heat_of(view, np.array([2.0, -0.5]))
    by_hand = np.zeros((40, 60))
    for y in range(40):
        for x in range(60):
            by_hand[y, x] = 2.0 * (x < 20 and y < 20) - 0.5 * (10 <= x < 30 and 10 <= y < 30)
    assert np.array_equal(heat, by_hand)
    picture = heated(view, heat, 2.0).picture
    red, grey, blue = (picture.getpixel(place) for place in ((5, 5), (50, 35), (25, 25)))
    assert red[0] > red[2] and blue[2] > blue[0] and len(set(grey)) == 1
    assert red[1] < blue[1], "the stronger the heat, the less of the picture"


def test_no_heat_leaves_a_grey_picture():
    view = view_of([[0, 0, 20, 20]])
    assert set(np.asarray(heated(view, heat_of(view, np.zeros(1)), 0.0).picture).ravel()) == {255}


def test_colours_diverge_from_white():
    assert diverging(np.array([1.0, 0.0, -1.0, 5.0])).tolist() == [[*FOR], [255] * 3, [*AGAINST], [*FOR]]


def test_labels_of_one_box_stand_apart():
    view = BoxedPicture(
        Image.new("RGB", (200, 200), "white"), np.array([[50, 50, 150, 150]] * 3), ["1", "2", "3"]
    )
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    drawn = np.asarray(labelled(view, [0, 1, 2], colours))
    sizes = [(drawn == colour).all(axis=2).sum() for colour in colours]
    alone = [
        (np.asarray(labelled(view, [n], [colour])) == colour).all(axis=2).sum()
        for n, colour in enumerate(colours)
    ]
    assert sizes == alone


@pytest.mark.parametrize("box", [[0, 0, 4, 4], [196, 196, 200, 200], [100, 100, 103, 103], [0, 0, 200, 200]])
def test_a_label_stays_inside_the_picture(box):
    view = BoxedPicture(Image.new("RGB", (200, 200), "white"), np.array([box]), ["a label"])
    drawn = np.asarray(labelled(view, [0], [GREEN]))
    assert (drawn == GREEN).all(axis=2).any()
    left, top, right, bottom = marks(view.picture, Image.fromarray(drawn))
    assert (right - left, bottom - top) == (round(font(13).getlength("a label")) + 9, 19)


def test_a_bar_stands_beside_the_picture_it_explains():
    picture = Image.new("RGB", (100, 100), "black")
    sheet = beside_bar(picture, 0.25)
    assert sheet.width > 100 and sheet.height == 100
    assert np.array_equal(np.asarray(sheet)[:, :100], np.asarray(picture))
    colours = np.asarray(sheet)[1:-1, 110].astype(int)
    assert colours[0, 0] > colours[0, 2] and colours[-1, 2] > colours[-1, 0]
    assert beside_bar(Image.new("RGB", (100, 10)), 0.25).height >= 60, "room for its numbers"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0314, "+0.031"), (-1.5, "-1.500"), (0, "+0.000"), (-0.00004, "-4e-05")]
)
def test_small_numbers_keep_a_digit(value, text):
    assert signed(value) == text
