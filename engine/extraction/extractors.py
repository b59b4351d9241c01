"""Extracts from each picture one vector, a grid of regions, or the regions that a detector finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from datasets.conversion.extraction_folder import Extracted, ExtractionFolder
from datasets.pictures.loader import PictureBatch, PictureLoader
from datasets.pictures.picture import CropBox, Picture, UnreadableError
from datasets.prefetch import prefetched
from engine.extraction.onednn_backbone import OnednnNetwork
from engine.extraction.onnx_backbone import OnnxNetwork
from engine.extraction.yolox import Yolox

Network = Callable[[np.ndarray], np.ndarray]  # float32 [B,3,H,W] -> [B,F], or a map [B,F,h,w]

_IN_THREADS = OnnxNetwork, OnednnNetwork  # which run on the calling thread alone
_DETAIL = 800  # pixels that the shorter side of a picture keeps before regions are cut from it


class FeatureExtractor(Protocol):
    """An extractor of features: `prepare` reads pictures, in threads; `extract` runs the networks on them.

    `loader` reads the pictures; its `unreadables` lists those that were left out. `in_threads` tells whether
    several threads may run the networks, too.
    """

    loader: PictureLoader

    @property
    def in_threads(self) -> bool:
        """Tell whether threads may call `extract` at the same time."""

    def prepare(self, indices: Sequence[int]) -> object:
        """Read some pictures."""

    def extract(self, ids: Sequence[str], prepared: object) -> list[Extracted]:
        """Return the features of the readable pictures; `ids` are those of all pictures of the batch."""


def extract_all(
    extractor: FeatureExtractor,
    ids: Sequence[str],
    folder: ExtractionFolder,
    batch_size: int,
    workers: int,
    progress: ShowProgress = no_progress,
) -> None:
    """Extract the features of all pictures that `folder` does not hold yet, batch by batch.

    `ids` are those of the loader's pictures. `workers` is the number of threads that read pictures and, if
    the extractor is `in_threads`, run the networks.
    Raises `UserError` for an unreadable picture, if the loader refuses these; earlier batches are kept.
    """
    batches = batches_of(len(ids), folder.done, batch_size)
    for indices, found in zip(batches, extract_batches(extractor, ids, batches, workers), strict=True):
        folder.add(*found)
        progress("extracting", indices.stop, len(ids))


def batches_of(pictures: int, done: int, batch_size: int) -> list[range]:
    """Return the batches of the remaining pictures, as ranges of indices."""
    starts = range(done, pictures, batch_size)
    return [range(start, min(start + batch_size, pictures)) for start in starts]


def extract_batches(
    extractor: FeatureExtractor, ids: Sequence[str], batches: Sequence[range], workers: int
) -> Iterator[tuple[list[Extracted], dict[str, str]]]:
    """Yield the arguments of `ExtractionFolder.add` for each batch.

    The arguments are those of `extract_all`. Raises `UserError` for features that are not finite.
    """
    reasons, names = extractor.loader.unreadables.problems, extractor.loader.names

    def extract(indices: range, prepared: object) -> list[Extracted]:
        return extractor.extract([ids[index] for index in indices], prepared)

    if extractor.in_threads:
        found = prefetched(lambda batch: extract(batch, extractor.prepare(batch)), batches, workers)
    else:
        found = map(extract, batches, prefetched(extractor.prepare, batches, workers))
    for indices, pictures in zip(batches, found, strict=True):
        for picture in pictures:
            if not np.isfinite(picture.vectors).all():
                raise UserError(
                    f"{picture.image_id}: the network makes NaN or infinity of this picture: check MEAN and "
                    "SCALE of its YAML file"
                )
        made = {picture.image_id for picture in pictures}
        problems = {ids[index]: reasons[names[index]] for index in indices if ids[index] not in made}
        yield pictures, problems


@dataclass(frozen=True)
class PooledExtractor:
    """An extractor of one vector for each picture: the mean over its views, and over the cells of a map."""

    loader: PictureLoader
    network: Network

    @property
    def in_threads(self) -> bool:
        """Tell whether a call of the network runs on one thread."""
        return isinstance(self.network, _IN_THREADS)

    def prepare(self, indices: Sequence[int]) -> PictureBatch:
        """Read and transform pictures."""
        return self.loader.read(indices)

    def extract(self, ids: Sequence[str], prepared: PictureBatch) -> list[Extracted]:
        """Return a vector [1,F] for each readable picture."""
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
class GridExtractor:
    """An extractor of side x side regions for each picture: averages over cells of a map, with boxes."""

    loader: PictureLoader
    network: Network
    side: int

    @property
    def in_threads(self) -> bool:
        """Tell whether a call of the network runs on one thread."""
        return isinstance(self.network, _IN_THREADS)

    def prepare(self, indices: Sequence[int]) -> PictureBatch:
        """Read and transform pictures."""
        return self.loader.read(indices)

    def extract(self, ids: Sequence[str], prepared: PictureBatch) -> list[Extracted]:
        """Return vectors [side*side,F], row by row, for each readable picture."""
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
class RegionExtractor:
    """An extractor of the regions that a YOLOX finds, each cut from the picture and run through the network.

    The regions of a picture are one batch of the network, as in R-CNN (Girshick et al. 2014, arXiv
    1311.2524). A picture in which nothing is found is one region, without a tag. `crop` is the number of
    pixels on a side of the network's input. `least_score`, `fewest` and `most` are those of `find_regions`.
    """

    loader: PictureLoader
    network: Network
    crop: int
    yolox: Yolox
    least_score: float
    fewest: int
    most: int

    @property
    def in_threads(self) -> bool:
        """Tell whether calls of both networks run on one thread."""
        return isinstance(self.network, _IN_THREADS) and isinstance(self.yolox.network, _IN_THREADS)

    def prepare(self, indices: Sequence[int]) -> list[tuple[int, Picture, np.ndarray]]:
        """Return for each readable picture its place, the decoded picture, and the detector's input."""
        found = []
        for place, index in enumerate(indices):
            name = self.loader.names[index]
            try:
                picture = Picture(self.loader.files.read(name))
                picture.decode(min(picture.size) / _DETAIL)
                found.append((place, picture, self.yolox.letterbox(picture)))
            except UnreadableError as error:
                self.loader.unreadables.add(name, error, self.loader.files.path)
        return found

    def extract(self, ids: Sequence[str], prepared: list[tuple[int, Picture, np.ndarray]]) -> list[Extracted]:
        """Return vectors [R,F] with boxes, tags and confidences (descending) for each readable picture."""
        return [self._extract(ids[place], picture, boxed) for place, picture, boxed in prepared]

    def _extract(self, image_id: str, picture: Picture, boxed: np.ndarray) -> Extracted:
        found = self.yolox.find(picture.size, boxed, self.least_score, self.fewest, self.most)
        boxes = found.boxes if len(found.boxes) else np.array([[0, 0, *picture.size]], dtype=np.float32)
        views = [CropBox(tuple(box), (self.crop, self.crop)) for box in boxes.tolist()]
        images = np.empty((len(views), 3, self.crop, self.crop), dtype=np.float32)
        for cut, out in zip(picture.views(views, self.loader.resample), images, strict=True):
            self.loader.normalization.write(cut, out)
        tags = [self.yolox.classes[label] for label in found.classes]
        return Extracted(
            image_id, pooled(self.network(images)), picture.size, boxes, tags, found.scores.tolist()
        )


def pooled(output: np.ndarray) -> np.ndarray:
    """Return the mean over the cells of a map [B,F,h,w], or vectors [B,F] as they are."""
    return output.reshape(*output.shape[:2], -1).mean(axis=2)


def averages(length: int, parts: int) -> np.ndarray:
    """Return the weights [parts,length] that average cells; parts overlap unless `parts` divides `length`."""
    weights = np.zeros((parts, length), dtype=np.float32)
    for part, (start, end) in enumerate(_ends(length, parts)):
        weights[part, start:end] = 1 / (end - start)
    return weights


def grid_boxes(shown: np.ndarray, height: int, width: int, side: int) -> np.ndarray:
    """Return the boxes of the regions of a grid, float32 [B,side*side,4], row by row.

    `shown` [B,4] is the box of the picture that the map of height x width cells covers.
    """
    rows, columns = (np.array(_ends(length, side)) / length for length in (height, width))  # [side,2]
    shares = [[left, upper, right, lower] for upper, lower in rows for left, right in columns]
    corner, extent = shown[:, None, :2], shown[:, None, 2:] - shown[:, None, :2]
    boxes = np.tile(corner, 2) + np.array(shares)[None] * np.tile(extent, 2)
    return boxes.astype(np.float32)


def _ends(length: int, parts: int) -> list[tuple[int, int]]:
    return [(part * length // parts, -(-(part + 1) * length // parts)) for part in range(parts)]
