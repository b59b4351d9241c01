import numpy as np
import paddle
import pytest

from models.layers.bert.pair_rows import REGION, pair_rows

TOKENS = [[5, 7, 6], [5, 7, 8, 6], [5, 7, 6]]
SEGMENTS = [[0, 0, 1], [0, 0, 0, 1], [0, 0, 1]]
COUNTS, IMAGE_OF = [2, 0, 3], [2, 0, 2]  # image 1 is in no pair


def batch_of(**changes):
    arrays = {
        "token_ids": [row + [0] * (5 - len(row)) for row in TOKENS],
        "segment_ids": [row + [0] * (5 - len(row)) for row in SEGMENTS],
        "text_len": [len(row) for row in TOKENS],
        "regions": np.zeros((3, 4, 2), np.float32),
        "num_regions": COUNTS,
        "image_row": IMAGE_OF,
    }
    return {name: paddle.to_tensor(array) for name, array in (arrays | changes).items()}


def begins_as(layout):
    """Return what each row begins as: a token with its place, or a region's place in the padded batch."""
    different = list(zip(layout.words, layout.positions, layout.segments, strict=True))
    assert len(set(different)) == len(different)
    different += list(layout.regions)
    return [different[number] for number in layout.origin]


def expected(image_of):
    rows, kinds = [], []
    for tokens, segments, image in zip(TOKENS, SEGMENTS, image_of, strict=True):
        rows += [(word, place, segments[place]) for place, word in enumerate(tokens)]
        rows += [image * 4 + region for region in range(COUNTS[image])]
        kinds += segments + [REGION] * COUNTS[image]
    return rows, kinds


def test_rows_by_loops():
    layout = pair_rows(batch_of(), True, np.eye(3, dtype=bool))
    rows, kinds = expected(IMAGE_OF)
    assert begins_as(layout) == rows
    assert list(layout.sequences.kinds) == kinds
    assert list(layout.sequences.length) == [3 + 3, 4 + 2, 3 + 3]
    assert list(layout.regions) == [0, 1, 8, 9, 10]
    assert len(layout.words) == 5  # of the ten: the third text is the first one, and the second begins alike


def test_without_image_rows_each_pair_has_its_own():
    batch = batch_of()
    del batch["image_row"]
    assert begins_as(pair_rows(batch, True, None)) == expected([0, 1, 2])[0]


@pytest.mark.parametrize("attends", [None, np.eye(3, dtype=bool)])
def test_texts_alone(attends):
    layout = pair_rows(batch_of(), False, attends)
    assert begins_as(layout) == [row for row in expected(IMAGE_OF)[0] if isinstance(row, tuple)]
    assert len(layout.regions) == 0 and list(layout.sequences.length) == [3, 4, 3]
    assert layout.sequences.kinds is None or list(layout.sequences.kinds) == sum(SEGMENTS, [])
