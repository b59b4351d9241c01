"""From pictures to features: a vector a picture, a grid of regions, or the regions that a detector finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from config.errors import UserError
from datasets.extraction import Extracted, ExtractionFolder
from datasets.images import Picture, UnreadableError, View
from datasets.loader import iterate_batches
from datasets.picture_loader import PictureBatch, PictureLoader
from datasets.transforms import Normalization
from engine.detection import Detections, decode_yolox, find_regions

Network = Callable[[np.ndarray], np.ndarray]  # float32 [B,3,H,W] -> [B,F], or a map [B,F,h,w]

_DETAIL = 800  # pixels of the shorter side that a picture keeps where parts of it are looked at


class Describer(Protocol):
    """A way to features: `prepare` reads some pictures, in threads; `describe` makes of them what it can.

    loader: of the pictures, whose `unreadables` says which were left out.
    """

    loader: PictureLoader

    def prepare(self, indices: Sequence[int]) -> object:
        """Read some pictures."""

    def describe(self, ids: Sequence[str], prepared: object) -> list[Extracted]:
        """Return what was made of the readable ones; `ids` are of all that were asked for."""


def extract(
    describer: Describer,
    ids: Sequence[str],
    folder: ExtractionFolder,
    batch_size: int,
    workers: int,
    progress: Callable[[int], object],
) -> None:
    """Describe all pictures that `folder` does not hold yet, batch by batch.

    ids: of the loader's pictures. workers: threads that read ahead. `progress` is called with the pictures
    done since its last call. Raises `UserError` for an unreadable picture if such are refused; what came
    before is kept.
    """
    starts = range(folder.done, len(ids), batch_size)
    batches = [range(start, min(start + batch_size, len(ids))) for start in starts]
    reasons, names = describer.loader.unreadables.problems, describer.loader.names
    for indices, prepared in zip(batches, iterate_batches(describer.prepare, batches, workers), strict=True):
        pictures = describer.describe([ids[index] for index in indices], prepared)
        made = {picture.image_id for picture in pictures}
        problems = {ids[index]: reasons[names[index]] for index in indices if ids[index] not in made}
        folder.add(pictures, problems)
        progress(len(indices))


@dataclass(frozen=True)
class PooledDescriber:
    """A vector a picture: the mean of its views', and of the cells of a map."""

    loader: PictureLoader
    network: Network

    def prepare(self, indices: Sequence[int]) -> PictureBatch:
        """Read and cut."""
        return self.loader.read(indices)

    def describe(self, ids: Sequence[str], prepared: PictureBatch) -> list[Extracted]:
        """Return vectors [1,F]."""
        batch, views = prepared.images.shape[:2]
        if not batch:
            return []
        vectors = pooled(self.network(prepared.images.reshape(-1, *prepared.images.shape[2:])))  # [B*V,F]
        vectors = vectors.reshape(batch, views, -1).mean(axis=1)
        return [
            Extracted(ids[place], vector[None], tuple(size))
            for place, vector, size in zip(
                prepared.kept.tolist(), vectors, prepared.sizes.tolist(), strict=True
            )
        ]


@dataclass(frozen=True)
class GridDescriber:
    """side x side regions a picture: the cells of the network's map, averaged; with their boxes."""

    loader: PictureLoader
    network: Network
    side: int

    def prepare(self, indices: Sequence[int]) -> PictureBatch:
        """Read and cut."""
        return self.loader.read(indices)

    def describe(self, ids: Sequence[str], prepared: PictureBatch) -> list[Extracted]:
        """Return vectors [side*side,F], row by row."""
        if not len(prepared.images):
            return []
        cells = self.network(prepared.images[:, 0])  # [B,F,h,w]
        if cells.ndim != 4 or self.side > min(cells.shape[2:]):
            raise UserError(
                f"--grid {self.side}: the network makes {list(cells.shape[1:])} of a picture, expected "
                f"[features, {self.side} or more, {self.side} or more]: take fewer cells, or another output"
            )
        weights = [averages(length, self.side) for length in cells.shape[2:]]
        regions = np.einsum("ih,jw,bfhw->bijf", *weights, cells, optimize=True)
        boxes = grid_boxes(prepared.boxes[:, 0], *(cells.shape[axis] for axis in (2, 3)), self.side)
        return [
            Extracted(ids[place], vectors.reshape(self.side**2, -1), tuple(size), own)
            for place, vectors, size, own in zip(
                prepared.kept.tolist(), regions, prepared.sizes.tolist(), boxes, strict=True
            )
        ]


@dataclass(frozen=True)
class RegionDescriber:
    """The regions that a YOLOX finds, each described by the network from the part of the picture that it is.

    Regions of one picture are a batch of the network (R-CNN's way: Girshick et al. 2014, arXiv 1311.2524). A
    picture in which nothing is found is one region, without a tag.
    detector: float32 [B,3,size,size] -> [B,A,5+K]; pad: pixel value beside what the picture fills of it.
    crop: pixels a side of the network's input.
    """

    loader: PictureLoader
    network: Network
    crop: int
    detector: Network
    detector_normalization: Normalization
    detector_size: int
    strides: tuple[int, ...]
    pad: int
    classes: tuple[str, ...]
    overlap: float
    least_score: float
    fewest: int
    most: int

    def prepare(self, indices: Sequence[int]) -> list[tuple[int, Picture, np.ndarray]]:
        """Return of each readable picture its place, itself, decoded, and the detector's input."""
        found = []
        for place, index in enumerate(indices):
            name = self.loader.names[index]
            try:
                picture = Picture(self.loader.files.read(name))
                picture.decode(min(picture.size) / _DETAIL)
                found.append((place, picture, self._letterbox(picture)))
            except UnreadableError as error:
                self.loader.unreadables.add(name, error)
        return found

    def describe(
        self, ids: Sequence[str], prepared: list[tuple[int, Picture, np.ndarray]]
    ) -> list[Extracted]:
        """Return vectors [R,F] with boxes, tags and confidences, the surest region first."""
        return [self._describe(ids[place], picture, boxed) for place, picture, boxed in prepared]

    def _describe(self, image_id: str, picture: Picture, boxed: np.ndarray) -> Extracted:
        found = self._detect(picture.size, boxed)
        boxes = found.boxes if len(found.boxes) else np.array([[0, 0, *picture.size]], dtype=np.float32)
        views = [View(tuple(box), (self.crop, self.crop)) for box in boxes.tolist()]
        images = np.empty((len(views), 3, self.crop, self.crop), dtype=np.float32)
        for cut, out in zip(picture.views(views, self.loader.resample), images, strict=True):
            self.loader.normalization.write(cut, out)
        tags = [self.classes[label] for label in found.classes]
        return Extracted(
            image_id, pooled(self.network(images)), picture.size, boxes, tags, found.scores.tolist()
        )

    def _detect(self, size: tuple[int, int], boxed: np.ndarray) -> Detections:
        """Return what is found, with boxes in pixels of the picture."""
        output = self.detector(boxed[None])
        try:
            boxes, scores = decode_yolox(output[0], self.detector_size, self.strides, len(self.classes))
        except ValueError as error:
            raise UserError(f"the detector's output does not fit its YAML file: {error}") from error
        fills = self._filled(size)
        found = find_regions(boxes, scores, fills, self.overlap, self.least_score, self.fewest, self.most)
        scale = np.array([size[0] / fills[0], size[1] / fills[1]] * 2, dtype=np.float32)
        return Detections(found.boxes * scale, found.scores, found.classes)

    def _filled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height that a picture fills of the detector's input: all of one, in its shape."""
        scale = self.detector_size / max(size)
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))

    def _letterbox(self, picture: Picture) -> np.ndarray:
        """Return the detector's input [3,S,S]: the picture in its upper left corner, beside it the pad."""
        width, height = self._filled(picture.size)
        pixels = np.full((self.detector_size, self.detector_size, 3), self.pad, dtype=np.uint8)
        whole = View((0, 0, *picture.size), (width, height))
        (pixels[:height, :width],) = picture.views([whole], self.loader.resample)
        out = np.empty((3, self.detector_size, self.detector_size), dtype=np.float32)
        self.detector_normalization.write(pixels, out)
        return out


def pooled(output: np.ndarray) -> np.ndarray:
    """Return the mean over the cells of a map [B,F,h,w], or vectors [B,F] as they are."""
    return output.reshape(*output.shape[:2], -1).mean(axis=2)


def averages(length: int, parts: int) -> np.ndarray:
    """Return the weights [parts,length] that average cells into parts, which overlap unless they fit in."""
    weights = np.zeros((parts, length), dtype=np.float32)
    for part, (start, end) in enumerate(_ends(length, parts)):
        weights[part, start:end] = 1 / (end - start)
    return weights


def grid_boxes(shown: np.ndarray, height: int, width: int, side: int) -> np.ndarray:
    """Return where the regions of a grid lie: float32 [B,side*side,4], row by row.

    shown: [B,4], the box of the picture that the map of height x width cells shows.
    """
    rows, columns = (np.array(_ends(length, side)) / length for length in (height, width))  # [side,2]
    shares = [[left, upper, right, lower] for upper, lower in rows for left, right in columns]
    corner, extent = shown[:, None, :2], shown[:, None, 2:] - shown[:, None, :2]
    boxes = np.tile(corner, 2) + np.array(shares)[None] * np.tile(extent, 2)
    return boxes.astype(np.float32)


def _ends(length: int, parts: int) -> list[tuple[int, int]]:
    return [(part * length // parts, -(-(part + 1) * length // parts)) for part in range(parts)]
