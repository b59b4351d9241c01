"""Read what a detector found from VinVL's `predictions.tsv`: per line an image id and a JSON object."""

import json
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import mistaken_kind
from datasets.features.positional import LineFile, PositionalFile
from datasets.features.store import Annotations, image_size
from datasets.names import same_name
from datasets.text_files import refuse_duplicates

_ID_BYTES = 512


class Predictions:
    """The detected objects of images, by image id; a line is parsed when its image is asked for.

    A line holds the id, a tab, and `{"image_w", "image_h", "objects": [{"class", "rect", "conf"}]}`, or the
    list of objects alone. A class of null is no tag. Raises `UserError` that names a line that is malformed,
    or whose image has a line already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = LineFile(PositionalFile(path), path.with_suffix(".lineidx"))
        ids = []
        for line in range(len(self._lines)):
            image_id, tab, _ = self._lines.head(line, _ID_BYTES).partition(b"\t")
            if not tab:
                raise self._malformed(line, repr(image_id[:30]))
            ids.append(image_id.decode("utf-8", errors="replace").strip())
        self._line_of = refuse_duplicates(path, ids)

    def annotations(self, image_id: str, num_regions: int) -> Annotations:
        """Return an image's tags and size, and its boxes if there is one for each of its `num_regions`.

        Raises `UserError` if the image has no line, or a malformed one.
        """
        line = self._line_of.get(image_id)
        if line is None:
            names = same_name(image_id, self._line_of)
            if len(names) != 1:
                found = f"{len(names)} lines" if names else "no line"
                raise UserError(
                    f"{self.path}: {found} for the image {cut(image_id)!r}: run the detector on it, or "
                    "delete the file"
                )
            line = self._line_of[names[0]]
        _, _, text = self._lines.line(line).partition(b"\t")
        try:
            content = json.loads(text)
            whole = content if isinstance(content, dict) else {"objects": content}
            objects = whole["objects"]
            named = [item for item in objects if item["class"] is not None]
            if any(isinstance(item["class"], dict | list) for item in named):
                raise TypeError("a class that is no name")
            tags = [str(item["class"]) for item in named]
            boxes = [item["rect"] for item in objects if "rect" in item]
            boxes = np.array(boxes, dtype=np.float32).reshape(len(boxes), 4)
            confidences = np.array([item["conf"] for item in named if "conf" in item], dtype=np.float32)
            size = image_size(whole["image_w"], whole["image_h"]) if "image_w" in whole else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self._malformed(line, repr(text[:60])) from error
        if not np.isfinite(boxes).all() or not np.isfinite(confidences).all():
            raise self._malformed(line, "NaN or infinity")
        return Annotations(
            boxes if len(boxes) == num_regions else None,
            tags,
            confidences if len(confidences) == len(tags) else None,
            size,
        )

    def _malformed(self, line: int, found: str) -> UserError:
        if kind := mistaken_kind(self.path):
            return UserError(f"{self.path}: {kind}")
        return UserError(
            f"{self.path} line {line + 1}: expected an image id, a tab and JSON with objects, each with "
            f"a class (and rect, four numbers, and conf), got {found}: run the detector again"
        )
