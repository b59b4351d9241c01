"""Pairs that a model believes and the file of captions denies: which to judge, and what that changes.

A caption of one picture often describes another as well. No file lists such pairs, so they count as misses
and serve as negatives in training (Chun et al. 2022, ECCV Caption, arXiv 2204.03359).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, cut, some
from config.files.whole import write_whole
from datasets.relevance import Relevance
from engine.inspection.kept_lists import KeptLists


@dataclass(frozen=True)
class DoubtedPair:
    """An image and a caption that no file calls right, though a model puts them before what is right.

    `caption` is the first that says the sentence. `i2t_place` and `t2i_place` are places on the lists, from
    1; None where the pair is not ahead. `margin` is how far its score is above the best right one's.
    """

    image: int
    caption: int
    score: float
    margin: float
    i2t_place: int | None
    t2i_place: int | None


@dataclass(frozen=True)
class Judgement:
    """Whether the caption with the id `caption` is right for the image with the id `image`."""

    image: str
    caption: str
    sentence: str
    right: bool


def doubted_pairs(lists: KeptLists) -> list[DoubtedPair]:
    """Return all doubted pairs of the lists, those that lead both ways first, then by place and margin.

    A pair whose sentence, letter for letter, is right for the image needs no judge, and is left out.
    """
    said = (
        lists.relevance.images * (int(lists.sentence.max(initial=0)) + 1)
        + (lists.sentence[lists.relevance.captions])
    )
    leaders = _first_alike(lists)
    found: dict[tuple[int, int], list] = {}
    for direction in ("i2t", "t2i"):
        places, scores = lists.lists(direction)
        best = np.full(len(places), np.inf, np.float32)
        owners = lists.relevance.images if direction == "i2t" else lists.relevance.captions
        highest = np.full(len(places), -np.inf, np.float32)
        np.maximum.at(highest, owners, lists.right_scores)
        has_right = np.bincount(owners, minlength=len(places)) > 0
        best[has_right] = highest[has_right]
        query, place = np.nonzero((places >= 0) & (scores >= best[:, None]))
        item = places[query, place]
        image, caption = (query, item) if direction == "i2t" else (item, query)
        keys = image * (int(lists.sentence.max(initial=0)) + 1) + lists.sentence[caption]
        denied = ~np.isin(keys, said)
        margin = scores[query, place] - best[query]
        for row in np.flatnonzero(denied).tolist():
            key = int(image[row]), int(leaders[caption[row]])
            entry = found.setdefault(key, [float(scores[query[row], place[row]]), float(margin[row]), {}])
            entry[1] = max(entry[1], float(margin[row]))
            own = entry[2]
            own[direction] = min(own.get(direction, 1 << 30), int(place[row]) + 1)
    pairs = [
        DoubtedPair(image, caption, score, margin, places.get("i2t"), places.get("t2i"))
        for (image, caption), (score, margin, places) in found.items()
    ]
    beyond = max(lists.i2t.shape[1], lists.t2i.shape[1]) + 1
    return sorted(
        pairs,
        key=lambda each: (
            (each.i2t_place or beyond) + (each.t2i_place or beyond),
            -each.margin,
            each.image,
            each.caption,
        ),
    )


def _first_alike(lists: KeptLists) -> np.ndarray:
    """Return the first caption [T] of each caption's fold that says the same."""
    keys = lists.sentence * (int(lists.image_fold.max(initial=0)) + 1) + lists.caption_fold
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def read_judgements(path: Path, lists: KeptLists) -> list[Judgement]:
    """Return the judgements of the file at `path` about the images and captions of `lists`.

    Raises UserError for a file of another form, an id that is unknown, and another sentence than the id has.
    """
    form = 'expected {"judgements": [{"image": id, "caption": id, "sentence": text, "right": true}, ...]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["judgements"]
        found = [_judgement(entry) for entry in entries]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {form}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not judgements: {form}") from error
    images, captions = set(lists.image_ids), dict(zip(lists.caption_ids, lists.captions, strict=True))
    for number, each in enumerate(found, 1):
        where = f"{path}: judgement {number}"
        if each.image not in images:
            raise UserError(
                f"{where}: the image {cut(each.image)!r} is not in the result, whose image ids are "
                f"{some(lists.image_ids)}: name the result that was judged"
            )
        if each.caption not in captions:
            raise UserError(
                f"{where}: the caption {cut(each.caption)!r} is not in the result, whose caption ids are "
                f"{some(lists.caption_ids)}: name the result that was judged"
            )
        if each.sentence != captions[each.caption]:
            raise UserError(
                f"{where}: {cut(each.sentence)!r} was judged, but caption {each.caption} is "
                f"{cut(captions[each.caption])!r}: name the result that was judged"
            )
    return found


def _judgement(entry: dict) -> Judgement:
    names = [entry["image"], entry["caption"], entry["sentence"]]
    if not all(isinstance(name, str) for name in names) or not isinstance(entry["right"], bool):
        raise TypeError
    return Judgement(*names, entry["right"])


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write judgements in the form that the desk exports and `read_judgements` reads."""
    entries = [
        {"image": each.image, "caption": each.caption, "sentence": each.sentence, "right": each.right}
        for each in judgements
    ]
    text = json.dumps({"judgements": entries}, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode("utf-8", "surrogatepass"))


def settled(judgements: Sequence[Judgement]) -> tuple[list[Judgement], int]:
    """Return one judgement of each pair, without those that were judged both ways, and their number."""
    by_pair: dict[tuple[str, str], set[bool]] = {}
    for each in judgements:
        by_pair.setdefault((each.image, each.sentence), set()).add(each.right)
    contested = {pair for pair, answers in by_pair.items() if len(answers) > 1}
    kept = {(each.image, each.sentence): each for each in judgements}
    return [each for pair, each in kept.items() if pair not in contested], len(contested)


def extended(lists: KeptLists, judgements: Iterable[Judgement]) -> Relevance:
    """Return the right pairs with those that were judged right, of all captions that say the same."""
    image_of = {name: place for place, name in enumerate(lists.image_ids)}
    caption_of = {name: place for place, name in enumerate(lists.caption_ids)}
    images, captions = [lists.relevance.images], [lists.relevance.captions]
    for each in judgements:
        if each.right:
            image = image_of[each.image]
            same = lists.alike(caption_of[each.caption])
            same = same[lists.caption_fold[same] == lists.image_fold[image]]
            images.append(np.full(len(same), image))
            captions.append(same)
    rule = f"{lists.relevance.rule}, and judged ones"
    return Relevance.of(lists.relevance.shape, np.concatenate(images), np.concatenate(captions), rule=rule)


def write_positives(folder: Path, split: str, lists: KeptLists, relevance: Relevance) -> list[Path]:
    """Write the right pairs in the form of ECCV Caption: two maps, by image and by caption; return paths.

    DATASET.RELEVANCE reads the first one.
    """
    written = []
    for name, rows, items, pairs in (
        ("image_to_caption", lists.image_ids, lists.caption_ids, relevance),
        ("caption_to_image", lists.caption_ids, lists.image_ids, relevance.turned),
    ):
        content = {
            row: [items[item] for item in pairs.captions[pairs.starts[place] : pairs.starts[place + 1]]]
            for place, row in enumerate(rows)
            if pairs.of_images[place]
        }
        written.append(folder / f"{split}_{name}.json")
        text = json.dumps(content, ensure_ascii=False, indent=None) + "\n"
        write_whole(written[-1], text.encode("utf-8", "surrogatepass"))
    return written
