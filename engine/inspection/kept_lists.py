"""What each query found first, with scores, as `lists.npz` beside a result: enough to show and to recount.

The lists are filled tile by tile from the very scores that the ranks are counted from. On the list of an
image, the first caption of a sentence stands for all that say the same. The scores of all right pairs are
kept too.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError
from config.files.whole import replacing
from datasets.array_files import read_npz
from datasets.pair_dataset import PairDataset
from datasets.relevance import Relevance
from datasets.retrieval_dataset import RetrievalDataset

if TYPE_CHECKING:
    from engine.ranking.screen import TileScores
    from engine.ranking.short_lists import ScoresOf

LISTS_FILE = "lists.npz"
REMEDY = "expected what tools/eval_retrieval.py keeps with EVAL.LIST_LENGTH above 0: evaluate again"
_NAMES = ("image_ids", "captions", "caption_ids")


class ListKeeper:
    """A `ListSink` that keeps the `k` first items of every query, and the scores of all right pairs.

    Images and captions compete if `image_fold` [images] is equal for the image and for the caption's own.
    """

    def __init__(self, dataset: RetrievalDataset | PairDataset, k: int, image_fold: np.ndarray) -> None:
        from engine.ranking.short_lists import ShortLists  # Paddle, which reading does without

        caption_fold = image_fold[dataset.caption_image]
        self._dataset, self._image_fold = dataset, image_fold
        self._relevance = dataset.relevance.within(image_fold, caption_fold)
        self._lists = ShortLists(k, image_fold, caption_fold, dataset.sentence_ids)
        self._right_scores = np.full(len(self._relevance.images), -np.inf, np.float32)

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Keep what leads among the `scores` [I,T] of the images and captions at these places."""
        self._lists.write(images, captions, scores)
        row, column = self._relevance.among(images, captions)
        number = self._relevance.numbers_of(images[row], captions[column])
        self._right_scores[number] = scores[row, column]

    def screen(self, images: np.ndarray, captions: np.ndarray, scores: "TileScores") -> Callable[[], None]:
        """Choose what may lead by `scores` [I,T], as `ListSink` says."""
        return self._lists.screen(images, captions, scores)

    def settle(self, scores_of: "ScoresOf") -> None:
        """Make the scores of what leads, and of all right pairs."""
        self._lists.settle(scores_of)
        self._right_scores = scores_of(self._relevance.images, self._relevance.captions)

    def write_pairs(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Keep what leads among the `scores` [P] of P different pairs at these places."""
        rows, row = np.unique(images, return_inverse=True)
        columns, column = np.unique(captions, return_inverse=True)
        tile = np.full((len(rows), len(columns)), -np.inf, np.float32)
        tile[row.reshape(-1), column.reshape(-1)] = scores
        self._lists.write(rows, columns, tile)
        number = self._relevance.numbers_of(images, captions)
        self._right_scores[number[number >= 0]] = scores[number >= 0]

    def close(self, share: bool = False) -> "KeptLists":
        """Return the lists; with `share`, all processes of a job call this, and get what all have seen."""
        lists, dataset = self._lists, self._dataset
        pairs = [
            (lists.captions_of_image, lists.image_scores),
            (lists.images_of_caption, lists.caption_scores),
        ]
        right_scores = self._right_scores
        if share:
            from engine.parallel.processes import all_reduce, world_size  # Paddle, which reading does without

            if world_size() > 1:
                pairs = [_of_all_processes(*pair) for pair in pairs]
                right_scores = all_reduce(right_scores, "max")
        (i2t, i2t_scores), (t2i, t2i_scores) = pairs
        return KeptLists(
            image_ids=list(map(str, dataset.image_ids)),
            captions=list(dataset.captions),
            caption_ids=list(map(str, dataset.caption_ids or range(dataset.num_captions))),
            caption_image=dataset.caption_image,
            sentence=dataset.sentence_ids,
            image_fold=self._image_fold,
            relevance=self._relevance,
            right_scores=right_scores,
            i2t=i2t,
            i2t_scores=i2t_scores,
            t2i=t2i,
            t2i_scores=t2i_scores,
        )


def _of_all_processes(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of the lists [Q,k] of all processes, best first; of equal ones the lower place."""
    from engine.parallel.processes import gather_array

    everyones = [np.concatenate(list(gather_array(each[None])), axis=1) for each in (places, scores)]
    order = np.lexsort((everyones[0], -everyones[1]), axis=1)[:, : places.shape[1]]
    found, ordered = (np.take_along_axis(each, order, axis=1) for each in everyones)
    return found, ordered


@dataclass(frozen=True)
class KeptLists:
    """What each query found first, and all that is needed to read it.

    `i2t` [I,k] are captions and `t2i` [T,k] images, best first, -1 after the last, with `i2t_scores` and
    `t2i_scores`. On a list of `i2t` the first caption of a sentence in a fold stands for all with equal
    `sentence` [T]. `relevance` holds the right pairs that compete, with `right_scores` [P]. `caption_ids` are
    the captions' own names, or their 0-based places.
    """

    image_ids: list[str]
    captions: list[str]
    caption_ids: list[str]
    caption_image: np.ndarray
    sentence: np.ndarray
    image_fold: np.ndarray
    relevance: Relevance
    right_scores: np.ndarray
    i2t: np.ndarray
    i2t_scores: np.ndarray
    t2i: np.ndarray
    t2i_scores: np.ndarray

    @cached_property
    def caption_fold(self) -> np.ndarray:
        """Return the fold [T] of each caption, that of its own image."""
        return self.image_fold[self.caption_image]

    def lists(self, direction: str) -> tuple[np.ndarray, np.ndarray]:
        """Return places and scores [Q,k] of a direction, i2t or t2i."""
        return (self.i2t, self.i2t_scores) if direction == "i2t" else (self.t2i, self.t2i_scores)

    def right(self, direction: str, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the right items of a query and their scores, the best first."""
        relevance = self.relevance if direction == "i2t" else self.relevance.turned
        own = slice(relevance.starts[query], relevance.starts[query + 1])
        items = relevance.captions[own]
        pairs = (np.full(len(items), query), items)
        scores = self.right_scores[self.relevance.numbers_of(*(pairs if direction == "i2t" else pairs[::-1]))]
        order = np.argsort(-scores, kind="stable")
        return items[order], scores[order]

    def alike(self, caption: int) -> np.ndarray:
        """Return the captions of a fold that say what `caption` says, itself among them."""
        order, starts, group = self._alike
        return order[starts[group[caption]] : starts[group[caption] + 1]]

    @cached_property
    def _alike(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the captions [T] group by group, where groups start, and the group [T] of each caption."""
        keys = self.sentence * (int(self.image_fold.max(initial=0)) + 1) + self.caption_fold
        _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        return np.argsort(group, kind="stable"), np.concatenate([[0], np.cumsum(counts)]), group


def write_lists(path: Path, lists: KeptLists) -> None:
    """Write the lists, whole or not at all; raise UserError if the disk refuses.

    All are plain arrays that NumPy reads; names are JSON in UTF-8, since one long sentence would widen all
    rows of an array of strings.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in ("caption_image", "sentence", "image_fold", "i2t", "t2i"):
        array = getattr(lists, name)
        arrays[name] = array.astype(np.int32) if array.size and array.max() < 1 << 31 else array
    arrays |= {name: getattr(lists, name) for name in ("right_scores", "i2t_scores", "t2i_scores")}
    for name in _NAMES:
        text = json.dumps(getattr(lists, name), ensure_ascii=False)
        arrays[name] = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    relevance = lists.relevance
    arrays |= {"right_images": relevance.images, "right_captions": relevance.captions}
    arrays["right_rule"] = np.asarray(relevance.rule)
    try:
        with replacing(path) as draft, open(draft, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error


def read_lists(path: Path) -> KeptLists:
    """Return what `write_lists` wrote; raise UserError for a file that is missing, damaged or another."""
    whole = ("caption_image", "sentence", "image_fold", "i2t", "t2i")
    of_right = ("right_scores", "right_images", "right_captions", "right_rule")
    needed = (*_NAMES, *whole, "i2t_scores", "t2i_scores", *of_right)
    arrays = read_npz(path, needed, REMEDY)
    names = {name: _read_names(path, name, arrays[name]) for name in _NAMES}
    for name in needed:
        kind = "iu" if name in whole or name in ("right_images", "right_captions") else "f"
        if name not in names and name != "right_rule" and arrays[name].dtype.kind not in kind:
            raise UserError(f"{path}: {name} of {arrays[name].dtype}: {REMEDY}")
    images, captions = len(names["image_ids"]), len(names["captions"])
    widths = {name: arrays[name].shape[1:] for name in ("i2t", "t2i")}
    pairs = arrays["right_images"].shape
    shapes = {
        "caption_image": (captions,),
        "sentence": (captions,),
        "image_fold": (images,),
        "i2t": (images, *widths["i2t"]),
        "i2t_scores": (images, *widths["i2t"]),
        "t2i": (captions, *widths["t2i"]),
        "t2i_scores": (captions, *widths["t2i"]),
        "right_captions": pairs,
        "right_scores": pairs,
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    ends = {"caption_image": images, "i2t": captions, "t2i": images}
    ends |= {"right_images": images, "right_captions": captions, "sentence": captions, "image_fold": images}
    wrong += [
        name
        for name, end in ends.items()
        # -1 stands behind the end of a list that is shorter than others
        if arrays[name].size and not -int(name in widths) <= arrays[name].min() <= arrays[name].max() < end
    ]
    wrong += ["right_scores"] if np.isnan(arrays["right_scores"]).any() else []
    if len(names["caption_ids"]) != captions or len(pairs) != 1 or any(len(w) != 1 for w in widths.values()):
        wrong.append("caption_ids")
    if wrong:
        raise UserError(f"{path}: {wrong[0]} does not fit the names of the file: {REMEDY}")
    rule = str(arrays["right_rule"])
    shape = images, captions
    relevance = Relevance.of(shape, arrays["right_images"], arrays["right_captions"], rule=rule)
    if len(relevance.images) != len(arrays["right_images"]):
        raise UserError(f"{path}: right pairs repeat: {REMEDY}")
    found = {name: arrays[name].astype(np.int64) for name in whole}
    scores = {name: arrays[name].astype(np.float32) for name in ("i2t_scores", "t2i_scores", "right_scores")}
    return KeptLists(relevance=relevance, **names, **found, **scores)


def _read_names(path: Path, name: str, array: np.ndarray) -> list[str]:
    try:
        names = json.loads(array.astype(np.uint8).tobytes().decode("utf-8", "surrogatepass"))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {name} are no names: {REMEDY}") from error
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise UserError(f"{path}: {name} are no names: {REMEDY}")
    return names
