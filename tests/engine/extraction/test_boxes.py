"""YOLOX's outputs become boxes, and of boxes that overlap the surest one stays."""

import numpy as np
import pytest

from engine.extraction.boxes import decode_yolox, find_regions, overlaps, suppress
from tests.closeness import assert_close, largest
from tests.onnx_networks import yolox_output

BOXES = [
    ((2, 4, 10, 20), 0, 0.9),
    ((3, 4, 10, 20), 0, 0.8),
    ((3, 4, 10, 20), 2, 0.7),
    ((20, 20, 40, 40), 1, 0.05),
]


def test_decoding_follows_the_cells():
    random = np.random.default_rng(0)
    output = random.normal(size=(20, 8)).astype(np.float32)
    boxes, scores = decode_yolox(output, 32, (8, 16), 3)
    row = 0
    for stride in (8, 16):
        for y in range(32 // stride):
            for x in range(32 // stride):
                cx, cy, w, h, objectness, *classes = output[row].tolist()
                cx, cy = (cx + x) * stride, (cy + y) * stride
                w, h = np.exp(w) * stride, np.exp(h) * stride
                expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                assert_close(boxes[row], expected, 8, largest([cx, cy]) + max(w, h))
                expected = np.array([objectness * each for each in classes])
                assert_close(scores[row], expected, 1, np.abs(expected))
                row += 1


def test_an_output_of_another_shape_is_refused():
    for shape in ((21, 8), (20, 9)):
        with pytest.raises(ValueError, match=r"expected \[20, 8\], .* got \[" + str(shape[0])):
            decode_yolox(np.zeros(shape, dtype=np.float32), 32, (8, 16), 3)


def overlap_of(box, other) -> float:
    width = max(0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(areas) - width * height)


def some_boxes(number: int, seed: int = 0):
    random = np.random.default_rng(seed)
    corner, extent = random.uniform(0, 20, (number, 2)), random.uniform(4, 20, (number, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    return boxes, random.permutation(number).astype(np.float32) / number, random.integers(0, 2, number)


def test_overlaps_are_intersection_over_union():
    boxes, others = some_boxes(7)[0], some_boxes(5, seed=1)[0]
    expected = [[overlap_of(box, other) for other in others.tolist()] for box in boxes.tolist()]
    assert_close(overlaps(boxes, others), expected, 20, scale=8)  # small differences of corners up to 40


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_suppression_keeps_what_no_surer_box_of_its_class_covers(overlap):
    boxes, scores, classes = some_boxes(60)
    kept: list[int] = []
    for index in sorted(range(60), key=lambda index: -scores[index]):
        if all(
            classes[index] != classes[other] or overlap_of(boxes[index], boxes[other]) <= overlap
            for other in kept
        ):
            kept.append(index)
    assert suppress(boxes, scores, classes, overlap).tolist() == kept


def regions(least: float, fewest: int, most: int, picture=(32, 32)):
    boxes, scores = decode_yolox(yolox_output(BOXES), 32, (8, 16), 3)
    return find_regions(boxes, scores, picture, 0.45, least, fewest, most)


def test_regions_are_the_surest_ones_cut_to_the_picture():
    found = regions(least=0.0, fewest=1, most=10)
    assert found.classes.tolist() == [0, 2, 1]  # the second dog is the first one
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.05], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [[2, 4, 10, 20], [3, 4, 10, 20], [20, 20, 32, 32]], atol=1e-4)


def test_numbers_of_regions_are_kept_within_bounds():
    assert len(regions(least=0.5, fewest=1, most=10).scores) == 2
    assert len(regions(least=0.5, fewest=3, most=10).scores) == 3
    assert len(regions(least=0.0, fewest=1, most=1).scores) == 1
    assert regions(0.0, 1, 10, picture=(18, 32)).classes.tolist() == [0, 2], (
        "what lies beside the picture is none"
    )
    assert len(regions(0.0, 5, 10, picture=(2, 2)).scores) == 0
