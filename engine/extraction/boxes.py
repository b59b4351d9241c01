"""Decodes the boxes of a YOLOX detector (arXiv 2107.08430), and suppresses overlapping ones (NMS)."""

from dataclasses import dataclass

import numpy as np

_CANDIDATES = 400  # boxes that go into the suppression, whose cost grows with their square
_LEAST_SIDE = 4.0  # pixels of the network's input; a smaller box shows nothing


@dataclass(frozen=True)
class Detections:
    """The detected objects of a picture, by descending score.

    `boxes` are float32 [R,4]: x1, y1, x2, y2. `scores` are float32 [R], 0 to 1. `classes` are int64 [R].
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def decode_yolox(
    output: np.ndarray, size: int, strides: tuple[int, ...], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes float32 [A,4] in pixels of the input, and scores float32 [A,K] of the classes.

    `output` [A,5+K] holds the cells of the maps one after another, row by row: centre and size relative to
    the cell, objectness, class probabilities. `size` is the width and the height of the input. `classes` is
    the number K of classes. Raises ValueError for an output of another shape.
    """
    wanted = (sum((size // stride) ** 2 for stride in strides), 5 + classes)
    if output.shape != wanted:
        raise ValueError(
            f"expected {list(wanted)}, boxes of the strides {list(strides)} and 5 + {classes} classes, got "
            f"{list(output.shape)}"
        )
    cells, steps = [], []
    for stride in strides:
        side = size // stride
        y, x = np.mgrid[:side, :side]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        steps.append(np.full(side * side, stride))
    grid, step = np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)[:, None]
    centre = (output[:, :2] + grid) * step
    half = np.exp(np.minimum(output[:, 2:4], 20)) * step / 2
    return np.concatenate([centre - half, centre + half], axis=1), output[:, 4:5] * output[:, 5:]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union (IoU) [N,M] of each of `boxes` [N,4] with each of `others` [M,4]."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])  # [N,M,2]
    far = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=-1)  # [N,M]
    areas = [(group[:, 2:] - group[:, :2]).prod(axis=-1) for group in (boxes, others)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9)


def suppress(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float) -> np.ndarray:
    """Return the indices of the boxes that non-maximum suppression keeps, by descending score.

    A kept box suppresses boxes of its class with a lower score and an IoU above `overlap`.
    """
    order = np.argsort(-scores, kind="stable")
    covers = overlaps(boxes[order], boxes[order]) > overlap
    covers &= classes[order][:, None] == classes[order][None, :]
    kept = np.ones(len(order), dtype=bool)
    for index in range(len(order)):
        if kept[index]:
            kept[index + 1 :] &= ~covers[index, index + 1 :]
    return order[kept]


def find_regions(
    boxes: np.ndarray,
    scores: np.ndarray,
    picture: tuple[float, float],
    overlap: float,
    least_score: float,
    fewest: int,
    most: int,
) -> Detections:
    """Return the boxes that score at least `least_score`, but `fewest` to `most`, clipped to the picture.

    `boxes` [A,4] and `scores` [A,K] are those of `decode_yolox`; `picture` is the width and the height to
    clip boxes to. There may be fewer than `fewest`, even none, if boxes are too small or outside the picture.
    """
    boxes = np.clip(boxes, 0, np.array([*picture, *picture], dtype=np.float32))
    sure = scores.max(axis=1)
    sure[((boxes[:, 2:] - boxes[:, :2]) < _LEAST_SIDE).any(axis=1)] = -1
    best = np.argsort(-sure, kind="stable")[:_CANDIDATES]
    best = best[sure[best] >= 0]
    classes = scores[best].argmax(axis=1)
    kept = suppress(boxes[best], sure[best], classes, overlap)
    number = min(most, max(fewest, int((sure[best][kept] >= least_score).sum())))
    kept = kept[:number]
    return Detections(boxes[best][kept], sure[best][kept], classes[kept])
