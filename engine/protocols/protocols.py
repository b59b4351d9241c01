"""The protocols of papers, exact, from one file of scores.

Each function of a protocol comes to a `Counted`: the ranks and precisions of every query by direction, from
which values, intervals and comparisons follow, and the choices that the protocol makes, in words. Where the
code that papers ran has a quirk, ours is right, and `quirks` reproduces it.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from config.errors import UserError
from datasets.pairs import folds_of_images
from datasets.relevance import Relevance
from engine.certificates.sides import Side, Sides
from engine.protocols.coco import CocoNames
from engine.protocols.pmrp import pmrp_sides
from engine.protocols.scored import Scored
from engine.ranking.counter import RankCounter, TiedRanks
from engine.ranking.precisions import discounted_gains, precisions_of_rows
from engine.ranking.ranks import Question, rank_counters, row_counter

Counters = tuple[RankCounter, RankCounter]  # of the images, of the captions

RECALLS = (1, 5, 10)
DATA = "the folder of eccv-caption's data, which names COCO's captions (docs/protocols.md)"
CUT = 50  # the length of the lists in the example of eccv-caption

QUIRKS = {
    "cut_lists": f"lists are cut at {CUT} items, as in eccv-caption's example: what lies beyond is lost",
    "zero_self": "cxc: a picture's similarity with itself is set to 0, not left out, as in vse_infty",
    "absent_positives": "eccv: R counts positives that no list can hold, as eccv-caption does (two captions)",
    "one_way": "cxc: a rated pair counts for its first picture or caption alone",
}


@dataclass(frozen=True)
class Counted:
    """What a protocol counted: `sides` by direction, and the `choices` that its numbers depend on."""

    sides: Sides
    choices: dict[str, object]


@dataclass(frozen=True)
class Request:
    """What to count: the scores, the tie rule, the quirks to reproduce, and the files that a protocol needs.

    `data` is the folder of COCO's names and positives, `objects` the file of each picture's objects.
    """

    scored: Scored
    tie_rule: str = "against"
    quirks: frozenset[str] = frozenset()
    data: Path | None = None
    objects: Path | None = None

    @cached_property
    def coco(self) -> CocoNames:
        """Return COCO's names of the pictures and captions; raise UserError without their folder."""
        if self.data is None:
            raise UserError(f"expected {DATA}, got none")
        return CocoNames(self.scored, self.data)


# A protocol yields its questions once, is sent their counters, and returns what it counted: so the ranks of
# all protocols are counted together.
Counting = Generator[list[Question], list[Counters], Counted]


def count_protocols(request: Request, names: Sequence[str]) -> list[Counted]:
    """Return what each of the protocols `names`, keys of `PROTOCOLS`, counts."""
    protocols = [PROTOCOLS[name].count(request) for name in names]
    asked = [next(protocol) for protocol in protocols]
    questions = [question for each in asked for question in each]
    counters = iter(request.scored.counters(questions, request.tie_rule) if questions else [])
    found = []
    for protocol, own in zip(protocols, asked, strict=True):
        try:
            protocol.send([next(counters) for _ in own])
        except StopIteration as end:
            found.append(end.value)
    return found


def one_list(request: Request) -> Counting:
    """Count R@K with all pictures and captions in one list: COCO 5K, Flickr30K, RSICD."""
    return (yield from _recalls(request, 1))


def five_folds(request: Request) -> Counting:
    """Count COCO 1K: five consecutive slices of the pictures, each ranked by itself, and their mean."""
    if len(request.scored.image_ids) % 5:
        raise UserError(
            f"{request.scored.path}: {len(request.scored.image_ids)} pictures do not divide into five folds: "
            "COCO 1K is counted on the whole 5K"
        )
    return (yield from _recalls(request, 5))


def first_thousand(request: Request) -> Counting:
    """Count R@K of the first 1,000 pictures and their captions in one list."""
    counted = yield from _recalls(request, 1, first=1000)
    return replace(counted, choices=counted.choices | {"pictures": "the first 1,000"})


def cxc(request: Request) -> Counting:
    """Count R@K by Crisscrossed-Captions' ratings: in two directions, or in four from embeddings.

    Picture and caption: rated 3 or more, as `cxc_*.json` lists. Picture to picture: rated 2.5 or more.
    Caption to caption: the siblings, and captions rated 3 or more. A query is no item of its own.
    """
    names, scored = request.coco, request.scored
    of_images, of_captions = names.positives("cxc")
    sides = yield from _both(request, of_images, of_captions)
    choices: dict[str, object] = {"picture_caption": of_images.rule}
    if scored.image is not None and _has(names.folder, "sis") and _has(names.folder, "sts"):
        siblings = Relevance.of_groups(scored.caption_image, scored.caption_image)
        both_ways = "one_way" not in request.quirks
        captions = names.rated("sts", 3.0, both_ways)
        joined = Relevance.of(
            captions.shape,
            np.concatenate([siblings.images, captions.images]),
            np.concatenate([siblings.captions, captions.captions]),
            rule="siblings and CxC STS, rated 3 or more",
        )
        pictures = names.rated("sis", 2.5, both_ways)
        sides["i2i_"] = _among_themselves(request, scored.image, pictures)
        sides["t2t_"] = _among_themselves(request, scored.text, joined)
        choices |= {"picture_picture": pictures.rule, "caption_caption": joined.rule}
        choices["a_rated_pair_counts"] = "both ways" if both_ways else "for its first"
    return Counted(sides, choices)


def eccv(request: Request) -> Counting:
    """Count ECCV Caption: R@1, R-precision and mAP@R of its queries in COCO's whole 5K."""
    names, scored = request.coco, request.scored
    _check_whole(scored)
    positives, found = names.positives("eccv"), {}
    asking = tuple(np.flatnonzero(relevance.of_images) for relevance in positives)
    yield []
    owners = np.arange(scored.shape[0]), scored.caption_image
    for direction, relevance, queries, owner, absent in zip(
        ("i2t", "t2i"), positives, asking, owners, names.absent["eccv"], strict=True
    ):
        own = _rows_of(relevance, queries)
        more = absent[queries] if "absent_positives" in request.quirks else 0
        if scored.i2t is None and "cut_lists" not in request.quirks:
            count = int((own.of_images + more).max())
            ranks, *listed = scored.leaders(direction, queries, own, count, request.tie_rule)
        else:
            rows = scored.rows(direction, queries)
            ranks = row_counter(rows, Question(own), request.tie_rule).tied()
            listed = [_cut(rows) if "cut_lists" in request.quirks else rows, own]
        average, precision = precisions_of_rows(*listed, request.tie_rule, more)
        nothing = np.zeros(len(queries), np.int64)
        sizes = own.of_images, np.full(len(queries), relevance.shape[1])
        side = Side.of(ranks, owner[queries], nothing, *sizes, recalls=(1,))
        values = {"map_at_r": average, "r_precision": precision}
        found[f"{direction}_"] = replace(side, query=queries, precisions=values, median=False)
    choices: dict[str, object] = {"positives": positives[0].rule, "map_at_r_is_divided_by": "R"}
    choices["positives_not_in_the_gallery"] = int(sum(each.sum() for each in names.absent["eccv"]))
    return Counted(found, choices)


def graded(request: Request) -> Counting:
    """Count nDCG over the whole ranking, where right pairs have grades."""
    relevance, found = request.scored.relevance, {}
    if relevance.grades is None:
        raise UserError(
            f"{request.scored.path}: its right pairs have no grades: name a CSV of image,caption,grade "
            "with --relevance (tools/recount.py) or DATASET.RELEVANCE (an evaluation)"
        )
    sides = yield from _both(request, relevance, relevance.turned, recalls=(1,))
    for direction, own in (("i2t", relevance), ("t2i", relevance.turned)):
        side = sides[f"{direction}_"]
        rows = request.scored.rows(direction, side.query)
        gains = discounted_gains(rows, _rows_of(own, side.query), request.tie_rule)
        found[f"{direction}_"] = replace(side, precisions={"ndcg": gains}, median=False)
    return Counted(found, {"gain": "the grade", "discount": "1 / log2(1 + place)", "length": "whole"})


def _pmrp(variant: str) -> Callable[[Request], Counting]:
    def count(request: Request) -> Counting:
        yield []
        sides, choices = pmrp_sides(request.scored, request.objects, variant, request.tie_rule)
        return Counted(sides, choices)

    return count


@dataclass(frozen=True)
class Protocol:
    """A protocol: its title, what counts it, and the file of the `Request` that it needs, data or objects."""

    title: str
    count: Callable[[Request], Counting]
    needs: str = ""


PROTOCOLS: Mapping[str, Protocol] = {
    "one_list": Protocol("all in one list (Flickr30K, COCO 5K, RSICD, UCM)", one_list),
    "coco_1k": Protocol("COCO 1K, mean of five folds", five_folds),
    "coco_1k_first": Protocol("COCO 1K, the first 1,000 pictures in one list", first_thousand),
    "cxc": Protocol("Crisscrossed Captions", cxc, "data"),
    "eccv": Protocol("ECCV Caption", eccv, "data"),
    "pmrp_pcme": Protocol("PMRP as in PCME: thresholds 0, 1, 2", _pmrp("pcme"), "objects"),
    "pmrp_eccv": Protocol(
        "PMRP as in eccv-caption: threshold 2, own picture left out", _pmrp("eccv"), "objects"
    ),
    "pmrp_cut": Protocol("PMRP as in ECCV Caption's table: lists cut at 50", _pmrp("cut"), "objects"),
    "ndcg": Protocol("nDCG of graded pairs", graded),
}


def _recalls(request: Request, folds: int, first: int | None = None) -> Counting:
    scored = request.scored
    images = scored.shape[0]
    if "cut_lists" in request.quirks or scored.cut:
        yield []
        return _filtered_recalls(request, folds)
    fold = folds_of_images(images, folds)
    if first is not None:
        fold = np.where(np.arange(images) < first, 0, 1)
    question = Question(scored.relevance, fold, fold[scored.caption_image])
    [(of_images, of_captions)] = yield [question]
    sides = _sides(request, question, of_images, of_captions)
    if first is not None:
        sides = {prefix: side.only(side.fold == 0) for prefix, side in sides.items()}
    sizes = np.bincount(fold)[: 1 if first is not None else None].tolist()
    return Counted(sides, {"positives": scored.relevance.rule, "folds": len(sizes), "fold_images": sizes})


def _filtered_recalls(request: Request, folds: int) -> Counted:
    """Count as other code does from lists that are cut: they are filtered to the fold, and end there."""
    scored = request.scored
    image_fold = folds_of_images(scored.shape[0], folds)
    caption_fold = image_fold[scored.caption_image]
    sides = {}
    for direction, relevance, own, others in (
        ("i2t", scored.relevance, image_fold, caption_fold),
        ("t2i", scored.relevance.turned, caption_fold, image_fold),
    ):
        favour, against = np.empty((2, len(own)), np.int64)
        for start in range(0, len(own), 256):
            queries = np.arange(start, min(start + 256, len(own)))
            rows = np.asarray(scored.rows(direction, queries), np.float32)
            rows = rows if scored.cut else _cut(rows)
            listed = np.isfinite(rows) & (own[queries, None] == others)
            counter = _count_listed(rows, listed, _rows_of(relevance, queries), request.tie_rule)
            favour[queries], against[queries] = counter.tied().favour, counter.tied().against
        within = relevance.within(own, others)
        sides[f"{direction}_"] = Side.of(
            TiedRanks(favour, against),
            np.arange(len(own)) if direction == "i2t" else scored.caption_image,
            own,
            within.of_images,
            np.bincount(others)[own],
            RECALLS,
        )
    choices = {"positives": scored.relevance.rule, "folds": folds, "quirk": QUIRKS["cut_lists"]}
    return Counted({prefix: replace(side, median=False) for prefix, side in sides.items()}, choices)


def _count_listed(rows: np.ndarray, listed: np.ndarray, relevance: Relevance, tie_rule: str) -> RankCounter:
    """Return the counter of rows [q,G] of which only `listed` [q,G] items are known; the others come last."""
    right = np.zeros(rows.shape, bool)
    right[relevance.images, relevance.captions] = True
    counter, everyone = RankCounter(len(rows), tie_rule, rows.dtype), slice(None)
    counter.see_relevant_rows(everyone, np.where(right & listed, rows, -np.inf))
    counter.see_rival_rows(everyone, np.where(listed, rows, -np.inf), listed & ~right)
    unknown = np.flatnonzero(~(right & listed).any(axis=1))
    counter.counts[:, unknown] = rows.shape[1]
    return counter


def _cut(rows: np.ndarray) -> np.ndarray:
    """Return `rows` [q,G] with -infinity for all but the first items; of equal ones, the lowest index."""
    order = np.argsort(-rows, axis=1, kind="stable")[:, CUT:]
    found = np.array(rows, np.float32)
    np.put_along_axis(found, order, -np.inf, axis=1)
    return found


def _both(
    request: Request, of_images: Relevance, of_captions: Relevance, recalls: tuple[int, ...] = RECALLS
) -> Generator[list[Question], list[Counters], Sides]:
    """Return both directions; `of_captions` has captions as rows, and need not be `of_images` turned."""
    scored = request.scored
    _check_whole(scored)
    questions = [Question(of_images)]
    turned = of_captions.turned
    if not all(
        np.array_equal(getattr(of_images, name), getattr(turned, name)) for name in ("images", "captions")
    ):
        questions.append(Question(turned))
    counters = yield questions
    first, second = counters[0], counters[-1]
    zeros = [np.zeros(size, np.int64) for size in scored.shape]
    sizes = [np.full(size, other) for size, other in zip(scored.shape, scored.shape[::-1], strict=True)]
    return {
        "i2t_": Side.of(
            first[0].tied(), np.arange(scored.shape[0]), zeros[0], of_images.of_images, sizes[0], recalls
        ),
        "t2i_": Side.of(
            second[1].tied(), scored.caption_image, zeros[1], of_captions.of_images, sizes[1], recalls
        ),
    }


def _check_whole(scored: Scored) -> None:
    if scored.cut:
        raise UserError(f"{scored.path}: lists that are cut: expected whole rankings for this protocol")


def _among_themselves(request: Request, embeddings: np.ndarray, relevance: Relevance) -> Side:
    """Return the side of items that are searched among each other; none finds itself."""
    size = len(embeddings)
    itself = Relevance.of((size, size), np.arange(size), np.arange(size))
    apart = relevance.images != relevance.captions
    relevance = Relevance.of(
        relevance.shape, relevance.images[apart], relevance.captions[apart], rule=relevance.rule
    )
    if "zero_self" in request.quirks:
        ranks = _with_zero_self(embeddings, relevance, request.tie_rule)
    else:
        question = Question(relevance, ignored=itself)
        [(counter, _)] = rank_counters(embeddings, embeddings, question, tie_rule=request.tie_rule)
        ranks = counter.tied()
    owner = np.arange(size) if size == request.scored.shape[0] else request.scored.caption_image
    return Side.of(
        ranks, owner, np.zeros(size, np.int64), relevance.of_images, np.full(size, size - 1), RECALLS
    )


def _with_zero_self(embeddings: np.ndarray, relevance: Relevance, tie_rule: str) -> TiedRanks:
    """Return the ranks where an item's similarity with itself is 0: a rival, if all others are negative."""
    found = []
    for start in range(0, len(embeddings), 512):
        queries = np.arange(start, min(start + 512, len(embeddings)))
        rows = embeddings[queries] @ embeddings.T
        rows[np.arange(len(queries)), queries] = 0
        own = _rows_of(relevance, queries)
        counter = _count_listed(rows, np.ones(rows.shape, bool), own, tie_rule)
        found.append(counter.tied())
    return TiedRanks(
        np.concatenate([each.favour for each in found]), np.concatenate([each.against for each in found])
    )


def _sides(request: Request, question: Question, of_images: RankCounter, of_captions: RankCounter) -> Sides:
    scored = request.scored
    image_fold, caption_fold = question.image_fold, question.caption_fold
    within = question.relevance.within(image_fold, caption_fold)
    folds = int(image_fold.max()) + 1
    return {
        "i2t_": Side.of(
            of_images.tied(),
            np.arange(scored.shape[0]),
            image_fold,
            within.of_images,
            np.bincount(caption_fold, minlength=folds)[image_fold],
            RECALLS,
        ),
        "t2i_": Side.of(
            of_captions.tied(),
            scored.caption_image,
            caption_fold,
            within.of_captions,
            np.bincount(image_fold, minlength=folds)[caption_fold],
            RECALLS,
        ),
    }


def _rows_of(relevance: Relevance, queries: np.ndarray) -> Relevance:
    """Return the map of some of the rows, in the order of `queries`."""
    rows, places = [], []
    for row, query in enumerate(queries):
        own = np.arange(relevance.starts[query], relevance.starts[query + 1])
        rows.append(np.full(len(own), row))
        places.append(own)
    where = np.concatenate(places)
    grades = None if relevance.grades is None else relevance.grades[where]
    shape = len(queries), relevance.shape[1]
    return Relevance.of(shape, np.concatenate(rows), relevance.captions[where], grades, relevance.rule)


def _has(folder: Path, name: str) -> bool:
    return any((folder / f"{name}_test.csv{end}").is_file() for end in ("", ".gz"))
