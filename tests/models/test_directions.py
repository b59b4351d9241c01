"""What lies where: each region hears others by their direction, and padding is never heard."""

import numpy as np
import paddle

from models.directions import DIRECTIONS, DirectionSummary, direction_weights
from tests.closeness import assert_close

RIGHT, BELOW, LEFT, ABOVE = range(DIRECTIONS)
FEATURES, HIDDEN, DIM = 5, 4, 3


def boxes_around(*centres: tuple[float, float]) -> np.ndarray:
    centres = np.array(centres, dtype=np.float32)
    return np.concatenate([centres - 1, centres + 1], axis=1)[None]  # [1,R,4]


def test_a_box_is_heard_from_where_it_lies() -> None:
    weights = direction_weights(paddle.to_tensor(boxes_around((0, 0), (5, 0), (0, 7)))).numpy()[0]
    one, nothing = np.ones(1), np.zeros(3)
    # the second is to the right of the first, and the third below it, since y runs downwards
    for hearer, heard, where in ((0, 1, RIGHT), (1, 0, LEFT), (0, 2, BELOW), (2, 0, ABOVE)):
        assert_close(weights[where, hearer, heard : heard + 1], one, 8)
        assert_close(np.delete(weights[:, hearer, heard], where), nothing, 0)


def test_a_slanting_direction_is_shared_and_adds_up_to_one() -> None:
    weights = direction_weights(paddle.to_tensor(boxes_around((0, 0), (3, -4)))).numpy()[0, :, 0, 1]
    assert_close(weights[[RIGHT, ABOVE]], np.array([9 / 25, 16 / 25]), 8)
    assert weights[[LEFT, BELOW]].tolist() == [0, 0]


def test_a_box_hears_neither_itself_nor_one_of_the_same_centre() -> None:
    boxes = boxes_around((2, 2), (2, 2))
    boxes[0, 1] += np.array([-1, -1, 1, 1])
    assert not direction_weights(paddle.to_tensor(boxes)).numpy().any()


def test_the_summary_is_that_of_plain_loops_and_padding_does_not_matter() -> None:
    paddle.seed(0)
    random = np.random.default_rng(0)
    layer = DirectionSummary(FEATURES, HIDDEN, DIM)
    regions = random.standard_normal((2, 4, FEATURES)).astype(np.float32)
    boxes = random.random((2, 4, 4)).astype(np.float32)
    counts = np.array([4, 2])
    regions[1, 2:], boxes[1, 2:] = 100, 9  # padding
    found = layer(*map(paddle.to_tensor, (regions, boxes, counts))).numpy()
    terms = FEATURES + HIDDEN + DIRECTIONS * 4 * HIDDEN + 4 + HIDDEN + 12
    for image, count in enumerate(counts):
        expected, largest = summary_by_loops(layer, regions[image, :count], boxes[image, :count])
        assert_close(found[image], expected, terms, scale=largest)


def summary_by_loops(
    layer: DirectionSummary, regions: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the summary [D] of regions [R,F], and the size of the largest number on the way, by rows."""
    weight = {name: value.numpy().astype(np.float64) for name, value in layer.named_parameters()}
    hidden = np.maximum(regions @ weight["hidden.weight"] + weight["hidden.bias"], 0)
    total, largest = np.zeros(HIDDEN), np.abs(hidden).max()
    for i in range(len(regions)):
        bound = hidden[i] @ weight["own.weight"] + weight["own.bias"]
        for j in range(len(regions)):
            if i != j:
                dx, dy = (boxes[j, :2] + boxes[j, 2:] - boxes[i, :2] - boxes[i, 2:]).astype(np.float64)
                for direction, along in enumerate((dx, dy, -dx, -dy)):
                    columns = slice(direction * HIDDEN, (direction + 1) * HIDDEN)
                    heard = hidden[j] @ weight["others.weight"][:, columns]
                    bound += max(along, 0) ** 2 / (dx**2 + dy**2) * heard
                    largest = max(largest, np.abs(bound).max(), np.abs(heard).max())
        total += np.maximum(bound, 0) / len(regions)
    summary = total @ weight["out.weight"] + weight["out.bias"]
    return summary, max(largest, np.abs(summary).max()) * max(1, np.abs(weight["out.weight"]).sum(0).max())


def test_a_mirrored_image_has_another_summary() -> None:
    paddle.seed(0)
    layer = DirectionSummary(FEATURES, HIDDEN, DIM)
    regions = paddle.to_tensor(np.random.default_rng(1).standard_normal((1, 2, FEATURES)).astype(np.float32))
    count = paddle.to_tensor([2])
    one = layer(regions, paddle.to_tensor(boxes_around((0, 0), (5, 0))), count).numpy()
    mirrored = layer(regions, paddle.to_tensor(boxes_around((5, 0), (0, 0))), count).numpy()
    assert np.abs(one - mirrored).max() > 1e-3
