"""What a feature file holds besides its vectors, collected from any source before it is converted."""

import hashlib
from dataclasses import dataclass

import numpy as np

from config.progress import ShowProgress, no_progress
from datasets.features.store import Annotations, FeatureStore


@dataclass(frozen=True)
class Contents:
    """Everything but the vectors and boxes of N images; a part that the source lacks is None.

    `counts` (int64 [N]) is the number of vectors of each image: 1, for a global vector, unless `has_regions`.
    `has_boxes` and `image_sizes` (int32 [N,2]) require that every image has them. `tag_names` are the
    distinct tags, `tags` (int32 [T]) indices into them, and `tag_counts` (int64 [N]) the number of tags of
    each image. `confidences` (float32 [T]) require that every tag has one. `extraction` is the store's.
    """

    dim: int
    has_regions: bool
    counts: np.ndarray
    ids: list[str] | None
    has_boxes: bool
    image_sizes: np.ndarray | None
    tag_names: list[str] | None
    tags: np.ndarray | None
    tag_counts: np.ndarray | None
    confidences: np.ndarray | None
    extraction: dict | None = None

    @property
    def num_images(self) -> int:
        """Return the number of images."""
        return len(self.counts)

    @property
    def num_vectors(self) -> int:
        """Return the number of vectors of all images."""
        return int(self.counts.sum())

    def digest(self) -> str:
        """Return a SHA-256 checksum of the contents."""
        parts = (self.counts, self.image_sizes, self.tags, self.tag_counts, self.confidences)
        texts = (self.dim, self.has_regions, self.has_boxes, self.ids, self.tag_names, self.extraction)
        checksum = hashlib.sha256(repr(texts).encode())
        for part in parts:
            checksum.update(b"-" if part is None else part.tobytes())
        return checksum.hexdigest()

    def describe(self) -> str:
        """Return the parts that are there, such as `ids, boxes, tags with confidences`."""
        tags = "tags" if self.confidences is None else "tags with confidences"
        present = {
            "ids": self.ids is not None,
            "boxes": self.has_boxes,
            "image sizes": self.image_sizes is not None,
            tags: self.tags is not None,
        }
        return ", ".join(name for name, there in present.items() if there) or "no ids, boxes or tags"


def read_contents(
    source: FeatureStore, ids: list[str] | None = None, progress: ShowProgress = no_progress
) -> Contents:
    """Read the annotations of all images; `ids` replace the source's own names."""
    with_boxes, with_confidences, with_tags = True, True, False
    sizes: list[tuple[int, int] | None] = []
    codes: dict[str, int] = {}
    tags, tag_counts, confidences = [], [], []
    for row in range(len(source)):
        notes: Annotations = source.annotations(row)
        with_boxes = with_boxes and notes.boxes is not None
        sizes.append(notes.image_size)
        with_tags = with_tags or notes.tags is not None
        names = notes.tags or []
        tags.append(np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int32))
        tag_counts.append(len(names))
        with_confidences = with_confidences and (notes.confidences is not None or not names)
        if notes.confidences is not None:
            confidences.append(notes.confidences)
        progress("reading annotations", row + 1, len(source))
    return Contents(
        dim=source.dim,
        has_regions=source.max_regions is not None,
        counts=source.counts(np.arange(len(source))),
        ids=source.image_ids if ids is None else ids,
        has_boxes=with_boxes,
        image_sizes=None if None in sizes else np.array(sizes, dtype=np.int32),
        tag_names=list(codes) if with_tags else None,
        tags=np.concatenate(tags) if with_tags else None,
        tag_counts=np.array(tag_counts, dtype=np.int64) if with_tags else None,
        confidences=np.concatenate(confidences) if with_tags and with_confidences and confidences else None,
        extraction=source.extraction,
    )
