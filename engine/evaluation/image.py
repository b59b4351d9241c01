"""Evaluates an image encoder: encodes every picture once, then searches pictures of the same class."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from config.errors import UserError
from config.progress import ShowProgress
from datasets.image_dataset import ImageDataset
from datasets.pictures.copies import number_pictures
from datasets.prefetch import prefetched
from engine.certificates.sides import Side, Sides
from engine.evaluation.protocol import check_finite, evaluation_mode, protocol_of
from engine.parallel.processes import (
    all_or_none,
    all_reduce,
    gather_array,
    gather_bytes,
    process_number,
    world_size,
)
from engine.parallel.shared_rows import share_rows
from engine.ranking.metrics import group_numbers
from engine.ranking.pictures.metrics import IMAGE_RECALLS, summarize_images
from engine.ranking.pictures.ranks import ImageRanks, image_ranks, relevant_counts


@dataclass(frozen=True)
class EncodedPictures:
    """The readable pictures of a split: embeddings [n,D], places in the split [n] and class names [n].

    `files` [n] are numbers that are equal for the same picture, whether among the queries or in the gallery.
    """

    embeddings: np.ndarray
    places: np.ndarray
    classes: np.ndarray
    files: np.ndarray


@dataclass(frozen=True)
class ImageResult:
    """The outcome of an evaluation of image retrieval.

    `metrics` are those of `engine.ranking.pictures.metrics`. `protocol` holds split, sizes, gallery and tie
    rule. `folds` is empty. `ranks` are those of `queries`; `gallery` is `queries` if no other pictures were
    searched.
    """

    metrics: dict[str, float]
    protocol: dict
    ranks: ImageRanks
    queries: EncodedPictures
    gallery: EncodedPictures
    folds: list = field(default_factory=list)

    @property
    def sides(self) -> Sides:
        """Return the ranks of the queries for the certificate; their owners are the classes."""
        ranks, classes = self.ranks, self.queries.classes[self.ranks.queries]
        _, owner = np.unique(classes, return_inverse=True)
        groups = group_numbers(self.queries.classes, self.gallery.classes)
        relevant = relevant_counts(*groups, self.queries.files, self.gallery.files)[ranks.queries]
        numbers, counts = np.unique(self.gallery.files, return_counts=True)
        own = self.queries.files[ranks.queries]
        place = np.minimum(np.searchsorted(numbers, own), len(numbers) - 1)
        itself = np.where(numbers[place] == own, counts[place], 0)
        side = Side(
            ranks.favour,
            ranks.against,
            ranks.queries,
            owner.reshape(-1),
            np.zeros(len(owner), np.int64),
            relevant,
            len(self.gallery.places) - itself,
            IMAGE_RECALLS,
            {"map_at_r": ranks.average_precision, "r_precision": ranks.r_precision},
            median=False,
        )
        return {"": side}


def evaluate_images(
    model: nn.Layer,
    dataset: ImageDataset,
    gallery: ImageDataset | None = None,
    tie_rule: str = "against",
    batch_size: int = 64,
    block_size: int = 1024,
    num_workers: int = 0,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> ImageResult:
    """Search `gallery`, or without it `dataset` itself, for each picture of `dataset`.

    A picture is relevant if its class has the same name. No picture finds itself, under whatever name: not
    the same file, and no copy of it. `batch_size` is the number
    of pictures in a batch to encode, `block_size` the number of vectors on a side of a tile of scores, and
    `num_workers` the number of threads that decode pictures ahead. `progress` is called with a stage, the
    work done and its size; an exception that it raises ends the evaluation. All processes of a job call this,
    share the pictures to encode and the queries to rank, and get the result; they need `shared`, the folder
    of `share_rows`. Raises UserError if no picture has another of its class to find, and for an embedding
    that is not finite.
    """
    sets = [dataset, gallery] if gallery else [dataset]
    numbers = number_pictures(*((each.loader.files, each.image_ids) for each in sets))
    classes = [_class_of(each) for each in sets]
    _check_any_relevant(dataset, gallery, classes[0], numbers[0], classes[-1], numbers[-1])
    encoded = [
        encode_pictures(model, each, files, batch_size, num_workers, progress, shared)
        for each, files in zip(sets, numbers, strict=True)
    ]
    queries, found = encoded[0], encoded[-1]
    others = (found.embeddings, found.classes) if gallery else ()
    _check_any_relevant(dataset, gallery, queries.classes, queries.files, found.classes, found.files)
    ranks = all_or_none(
        lambda: image_ranks(
            queries.embeddings,
            queries.classes,
            *others,
            tie_rule=tie_rule,
            block_size=block_size,
            progress=(lambda done, total: progress("rank", done, total)) if progress else None,
            part=(process_number(), world_size()),
            files=(queries.files, found.files),
        )
    )
    if world_size() > 1:
        ranks = _ranks_of_all(ranks)
    counts = {
        "images": len(queries.places),
        "classes": len(np.unique(queries.classes)),
        "queries": len(ranks.queries),
        "unreadable": dataset.num_images - len(queries.places),
        "gallery": gallery.name if gallery else "",
        "gallery_images": len(found.places),
        "not_searched": _also_searched(queries, found),
        "folds": 1,
    }
    protocol = protocol_of(dataset.name, counts, tie_rule, model.measure)
    metrics = summarize_images(ranks.ranks, ranks.average_precision, ranks.r_precision)
    return ImageResult(metrics, protocol, ranks, queries, found)


def check_searchable(dataset: ImageDataset, gallery: ImageDataset | None = None) -> None:
    """Raise `UserError` if no picture has another of its class to find; no picture is read."""
    classes, found = _class_of(dataset), _class_of(gallery or dataset)
    files = np.arange(len(classes))
    others = len(files) + np.arange(len(found)) if gallery else files
    _check_any_relevant(dataset, gallery, classes, files, found, others)


def _class_of(dataset: ImageDataset) -> np.ndarray:
    return np.array(dataset.class_names)[dataset.labels]


def _check_any_relevant(
    dataset: ImageDataset,
    gallery: ImageDataset | None,
    classes: np.ndarray,
    files: np.ndarray,
    found_classes: np.ndarray,
    found_files: np.ndarray,
) -> None:
    """Raise `UserError` unless a query has a relevant picture.

    `classes` and `files` are those of the queries; the others are those of the searched pictures, which
    without a gallery are the queries themselves.
    """
    if relevant_counts(*group_numbers(classes, found_classes), files, found_files).any():
        return
    where = f" in {gallery.loader.files.path}, {gallery.name}" if gallery else ""
    raise UserError(
        f"{dataset.loader.files.path}, {dataset.name}: no picture has another of its class to find{where}, "
        f"such as one of {classes[0]}: add pictures, or check the classes"
    )


def _also_searched(queries: EncodedPictures, found: EncodedPictures) -> int:
    """Return how many queries the gallery holds; searched in each other, how many have a copy there."""
    files, counts = np.unique(found.files, return_counts=True)
    if found is queries:
        files = files[counts > 1]
    return int(np.isin(queries.files, files).sum())


def encode_pictures(
    model: nn.Layer,
    dataset: ImageDataset,
    files: np.ndarray,
    batch_size: int,
    num_workers: int = 0,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> EncodedPictures:
    """Encode every readable picture of `dataset` once; `shared` is explained at `evaluate_images`.

    `files` are the numbers of all pictures, which `EncodedPictures` explains.

    Raises UserError if no picture can be read, and for an embedding that is not finite.
    """
    batches = np.split(np.arange(dataset.num_images), range(batch_size, dataset.num_images, batch_size))
    numbers = np.array_split(np.arange(len(batches)), world_size())[process_number()]
    own = [batches[number] for number in numbers]
    embeddings, kept = all_or_none(lambda: _encode(model, dataset, own, num_workers, progress))
    if not all_reduce(np.array([len(kept)]), "max")[0]:
        raise UserError(
            f"{dataset.loader.files.path}, {dataset.name}: none of the {dataset.num_images} pictures can be "
            f"read, such as {dataset.image_ids[0]}: mend or remove them"
        )
    if world_size() > 1:
        everyones = gather_array(kept)
        places = np.searchsorted(everyones, kept)
        embeddings, kept = share_rows(places, embeddings, len(everyones), shared), everyones
        for problems in gather_bytes(json.dumps(dataset.loader.unreadables.problems).encode()):
            dataset.loader.unreadables.problems.update(json.loads(problems))
    return EncodedPictures(embeddings, kept, _class_of(dataset)[kept], files[kept])


def _encode(
    model: nn.Layer,
    dataset: ImageDataset,
    batches: list[np.ndarray],
    num_workers: int,
    progress: ShowProgress | None,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the embeddings [n,D] of the readable pictures of `batches`, None if n is 0, and places [n]."""
    embeddings, places = [], []
    done = np.cumsum([len(batch) for batch in batches]).tolist()
    with evaluation_mode(model), paddle.no_grad():
        made = prefetched(lambda images: dataset.readable(images, 0), batches, num_workers)
        for number, batch in zip(done, made, strict=True):
            if batch:
                embeddings.append(_embeddings(model, dataset, batch))
                places.append(batch["image_id"])
            if progress:
                progress("encode pictures", number, done[-1])
    if not places:
        return None, np.empty(0, np.int64)
    return np.concatenate(embeddings), np.concatenate(places)


def _embeddings(model: nn.Layer, dataset: ImageDataset, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Return the embeddings [B,D] of a batch; raise `UserError` for an embedding that is not finite."""
    encoded = model.encode_image({"pixels": paddle.to_tensor(batch["pixels"])}).numpy()
    names = [dataset.image_ids[place] for place in batch["image_id"]]
    check_finite("embeddings", encoded, lambda row: f"picture {names[row]}")
    return encoded


def _ranks_of_all(part: ImageRanks) -> ImageRanks:
    """Return the ranks of all queries; `part` holds those that this process has ranked."""
    columns = [getattr(part, each.name) for each in fields(part)]
    everyones = gather_array(np.stack(columns, axis=1, dtype=np.float64))
    queries, *rest = everyones[np.argsort(everyones[:, 0])].T
    *rest, favour, against = rest
    return ImageRanks(queries.astype(np.int64), *rest, *(np.stack([favour, against]).astype(np.int64)))


def nearest_pictures(result: ImageResult, query: int, count: int) -> list[tuple[int, float]]:
    """Return place and score of the `count` gallery pictures with the highest scores for row `query`.

    The query itself is left out, and so are its copies.
    """
    scores = result.gallery.embeddings @ result.queries.embeddings[query]
    scores[result.gallery.files == result.queries.files[query]] = -np.inf
    rows = np.argsort(-scores, kind="stable")[: min(count, np.isfinite(scores).sum())]
    return [(int(result.gallery.places[row]), float(scores[row])) for row in rows]


def format_images(result: ImageResult) -> str:
    """Return the metrics as a text table, with the protocol."""
    protocol, metrics = result.protocol, result.metrics
    where = (
        f"in {protocol['gallery_images']} of {protocol['gallery']}"
        if protocol["gallery"]
        else "in each other"
    )
    lone, unreadable = protocol["images"] - protocol["queries"], protocol["unreadable"]
    left_out = f"; {lone} without another of their class do not count" if lone else ""
    left_out += f"; {unreadable} unreadable" if unreadable else ""
    if protocol["not_searched"]:
        left_out += f"; {protocol['not_searched']} " + (
            "are in that gallery too, and do not find themselves"
            if protocol["gallery"]
            else "have copies there, which they do not find"
        )
    names = [*(f"R@{k}" for k in IMAGE_RECALLS), "MAP@R", "R-precision"]
    return "\n".join(
        [
            f"{protocol['split']}: {protocol['images']} pictures of {protocol['classes']} classes, searched "
            f"{where}{left_out}",
            "",
            "".join(f"{name:>12}" for name in names),
            "".join(f"{value:>12.2f}" for value in metrics.values()),
            "",
            "in percent; R is the number of a picture's relevant ones",
            f"ties {protocol['tie_rule']}: {protocol['tie_rule_text']}",
        ]
    )
