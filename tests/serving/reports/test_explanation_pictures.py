"""Each drawing frames the right regions, and the matrix paints each cell by its value."""

import numpy as np
import pytest
from PIL import Image

from serving.reports.drawing import BAR_MARGIN, BoxedPicture, diverging
from serving.reports.explanation_pictures import (
    CELL,
    LISTENED,
    MATRIX_ROWS,
    ROW,
    SIDE,
    TAKER,
    TILE,
    draw_links,
    draw_listened,
    draw_matrix,
    draw_sentence,
    draw_words,
)

BOXES = np.array([[0, 0, 26, 26], [50, 0, 90, 40], [0, 50, 40, 90], [60, 60, 100, 100]], float)


@pytest.fixture
def view() -> BoxedPicture:
    return BoxedPicture(Image.new("RGB", (104, 104), (230, 230, 230)), BOXES, ["1 dog", "2", "3 cat", "4"])


def count(picture: Image.Image, colour: tuple[int, int, int], box: np.ndarray | None = None) -> int:
    """Return how many pixels have the colour, in a box of the small picture if one is given."""
    if box is not None:
        picture = picture.crop(tuple((box * SIDE / 104).round().astype(int).tolist()))
    return int((np.asarray(picture) == colour).all(axis=2).sum())


def test_the_regions_listened_to_most_are_framed(view):
    drawn = draw_listened(view, np.array([0.1, 0.5, 0.05, 0.35]), top=2)
    assert drawn.size == (SIDE, SIDE)
    assert count(drawn, LISTENED, BOXES[1]) > count(drawn, LISTENED, BOXES[3]) > 0
    untouched = drawn.crop(tuple((BOXES[2] * SIDE / 104).astype(int).tolist()))
    assert untouched.getcolors() == [(untouched.width * untouched.height, (230, 230, 230))]


def test_lines_lead_from_one_region_to_those_it_takes_from(view):
    drawn = draw_links(view, 0, np.array([0.9, 0.1, 0.0, 0.5]), top=1)
    assert count(drawn, TAKER, BOXES[0]) and not count(drawn, TAKER, BOXES[3])
    middle = (BOXES[0].reshape(2, 2).mean(axis=0) + BOXES[3].reshape(2, 2).mean(axis=0)) / 2 * SIDE / 104
    red, green, blue = drawn.getpixel(tuple(middle.astype(int).tolist()))
    assert red > 200 > green > blue, "the line"
    for region in (1, 2):
        assert not count(drawn, LISTENED, BOXES[region])


def test_a_sentence_rests_on_what_it_loses(view):
    drawn = draw_sentence(view, np.array([0.0, 0.3, -0.2, 0.0]), top=1)
    assert drawn.size == (SIDE + BAR_MARGIN, SIDE)
    red, blue, neither = (
        np.asarray(drawn)[tuple(((BOXES[region, [1, 0]] + 15) * SIDE / 104).astype(int))].astype(int)
        for region in (1, 2, 3)
    )
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50 and np.ptp(neither) == 0


def test_every_word_has_a_picture_of_its_own(view):
    pair = np.zeros((4, 6))
    pair[1, 0], pair[3, 5], pair[0, 2] = 0.2, 0.1, -0.2
    sheet = np.asarray(draw_words(view, ["a", "red", "dog", "and", "two", "cats"], pair)).astype(int)
    assert sheet.shape[0] > 2 * TILE and 5 * TILE < sheet.shape[1] < 6 * TILE + 60, "five in a row"
    step_x, step_y = TILE + 12, TILE + 38

    def at(word: int, region: int) -> np.ndarray:
        x, y = ((BOXES[region, :2] + BOXES[region, 2:]) / 2 * TILE / 104).astype(int)
        return sheet[26 + word // 5 * step_y + y, word % 5 * step_x + x]

    def warmth(word: int, region: int) -> int:
        return int(at(word, region)[0] - at(word, region)[2])

    assert warmth(0, 1) > warmth(5, 3) > 20 and warmth(2, 0) < -20, "one scale for all"
    assert warmth(1, 1) == warmth(3, 3) == 0


def test_the_matrix_paints_a_cell_by_its_value(view):
    pair = np.array([[0.1, -0.2], [0.0, 0.05], [0.2, 0.0], [-0.1, 0.1]])
    region, word = np.array([0.3, -0.1, 0.2, 0.0]), np.array([0.1, 0.2])
    sheet = np.asarray(draw_matrix(view, ["dog", "cat"], pair, region, word))
    order = [0, 2, 3, 1]  # by what the sentence loses
    head = sheet.shape[0] - 5 * ROW  # of four rows and the words' own numbers
    middle = sheet[head + ROW // 2, :-BAR_MARGIN]
    left = np.flatnonzero((middle == diverging(0.5)).all(axis=1)).min() - 1  # the cell of 0.1
    for number, row in enumerate(order):
        for column in range(2):
            pixel = sheet[head + number * ROW + ROW // 2, left + column * CELL + CELL // 2]
            assert pixel.tolist() == diverging(pair[row, column] / 0.2).tolist(), (row, column)


def test_of_many_regions_the_matrix_keeps_the_strongest():
    many = MATRIX_ROWS + 9
    view = BoxedPicture(Image.new("RGB", (50, 50)), np.tile([0.0, 0, 50, 50], (many, 1)), ["x"] * many)
    few = BoxedPicture(view.picture, view.boxes[:MATRIX_ROWS], view.labels[:MATRIX_ROWS])
    values = np.linspace(1, 0, many)
    large, small = (
        draw_matrix(v, ["a"], values[: len(v.labels), None], values[: len(v.labels)], np.ones(1))
        for v in (view, few)
    )
    assert large.size == small.size


def test_a_long_last_word_is_drawn_whole(view):
    pair = np.ones((4, 1))
    short, long = (
        draw_matrix(view, [word], pair, np.ones(4), np.ones(1)) for word in ("dog", "merry-go-rounds")
    )
    assert long.width > short.width and long.height > short.height


def test_a_model_that_heeds_nothing_can_be_drawn(view):
    """Nothing divides by zero: the regions or words of a model may count for nothing at all."""
    nothing = np.zeros(4)
    with np.errstate(all="raise"):
        draw_listened(view, nothing, 2)
        draw_links(view, 1, nothing, 2)
        draw_sentence(view, nothing, 2)
        draw_words(view, ["a"], nothing[:, None])
        draw_matrix(view, ["a"], nothing[:, None], nothing, nothing[:1])
