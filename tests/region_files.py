"""Region features made up for tests, and the TSV files that other people's extractors write."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from datasets.features.store import ImageRegions

NAMES = ["dog", "traffic light", "café", "tree"]


def make_regions(counts: list[int], dim: int = 6) -> dict[str, ImageRegions]:
    """Return images with so many regions each, by id, with a box and a tag for each region."""
    random = np.random.default_rng(sum(counts))
    images = {}
    for index, count in enumerate(counts):
        corners = random.random((count, 4), dtype=np.float32) * 100
        images[f"image {index}"] = ImageRegions(
            boxes=np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1),
            tags=[NAMES[code] for code in random.integers(0, len(NAMES), count)],
            confidences=random.random(count, dtype=np.float32),
            image_size=(640, 480 - index),
            features=random.standard_normal((count, dim), dtype=np.float32),
        )
    return images


def tsv_line(image_id: str, regions: ImageRegions, kind: str, end: str = "\n") -> str:
    """Return an image's line in a file of `vinvl`, `bottom_up` or `lxmert`."""
    count, (width, height) = len(regions.features), regions.image_size
    features, boxes = encoded(regions.features), encoded(regions.boxes)
    codes = encoded(np.array([NAMES.index(tag) for tag in regions.tags], dtype=np.int64))
    confidences = encoded(regions.confidences)
    columns = {
        "vinvl": [image_id, count, features],
        "bottom_up": [image_id, width, height, count, boxes, features],
        "lxmert": [
            *(image_id, height, width, codes, confidences, codes, confidences),
            *(count, boxes, features),
        ],
    }[kind]
    return "\t".join(map(str, columns)) + end


def write_tsv(path: Path, images: dict[str, ImageRegions], kind: str, end: str = "\n") -> Path:
    """Write a file of `vinvl` (with its predictions), `bottom_up` or `lxmert` (with its vocabulary)."""
    path.write_bytes("".join(tsv_line(name, images[name], kind, end) for name in images).encode())
    if kind == "lxmert":
        path.with_name("objects_vocab.txt").write_text("".join(f"{name},other\n" for name in NAMES))
    if kind == "vinvl":
        lines = [f"{name}\t{json.dumps(prediction(images[name]))}\n" for name in images]
        path.with_name("predictions.tsv").write_text("".join(reversed(lines)))
        path.with_name("imageid2idx.json").write_text(
            json.dumps({name: row for row, name in enumerate(images)})
        )
    return path


def prediction(regions: ImageRegions) -> dict:
    """Return what VinVL's detector says of an image."""
    objects = [
        {"rect": box.tolist(), "class": tag, "conf": float(confidence)}
        for box, tag, confidence in zip(regions.boxes, regions.tags, regions.confidences, strict=True)
    ]
    return {"image_w": regions.image_size[0], "image_h": regions.image_size[1], "objects": objects}


def encoded(values: np.ndarray) -> str:
    """Return the base64 of an array's bytes."""
    return base64.b64encode(values.tobytes()).decode()


def check_equal(found: ImageRegions, expected: ImageRegions) -> None:
    """Compare two images in all that they have."""
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features.view(np.uint32), expected.features.view(np.uint32))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert found.tags == expected.tags and found.image_size == expected.image_size
    np.testing.assert_array_equal(found.confidences, expected.confidences)


def check_refused(action: Callable[[], object], expected: list[str]) -> None:
    """Check that an action raises `UserError` with one line that holds all of `expected`."""
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for part in expected:
        assert part in message, message
