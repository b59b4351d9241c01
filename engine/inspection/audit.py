"""Equal and near-equal pictures and sentences within and across splits, and what a result is without them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from datasets.build.audited import CLOSE, AuditedSplit, said
from datasets.preparation.near_duplicates import ALIKE, BITS, find_close
from engine.certificates.sides import Certified, Sides, certify
from engine.certificates.stored import StoredRanks, digest_of

_MOST_PAIRS = 20_000_000


@dataclass(frozen=True)
class SharedPictures:
    """Pairs of pictures of two splits (or of one), as places in both: `equal` [P,2], near-equal `alike`."""

    first: str
    second: str
    equal: np.ndarray
    alike: np.ndarray


@dataclass(frozen=True)
class SharedSentences:
    """The places in the second split of captions that the first one has too, for another image.

    `equal` are equal letter for letter, `alike` in their words alone.
    """

    first: str
    second: str
    equal: np.ndarray
    alike: np.ndarray


@dataclass(frozen=True)
class Audit:
    """What an audit found: for each two splits, and each one with itself, pictures and sentences."""

    splits: list[AuditedSplit]
    pictures: list[SharedPictures]
    sentences: list[SharedSentences]

    @cached_property
    def by_name(self) -> dict[str, AuditedSplit]:
        """Return the splits by name."""
        return {split.name: split for split in self.splits}

    @property
    def method(self) -> str:
        """Return in words how pictures were compared."""
        if self.splits[0].by_pictures:
            return f"equal files, and perceptual hashes that differ in at most {ALIKE} of {BITS} bits"
        return "equal features, and a high cosine of their centred means"


def audit(
    splits: Sequence[AuditedSplit], close: float = CLOSE, progress: ShowProgress = no_progress
) -> Audit:
    """Return what the splits share; `close` is the cosine of centred features of near-equal images."""
    pictures = _shared_pictures(splits, close, progress)
    sentences = [_shared_sentences(*pair) for pair in combinations_with_replacement(splits, 2)]
    return Audit(list(splits), pictures, [each for each in sentences if each is not None])


def _shared_pictures(
    splits: Sequence[AuditedSplit], close: float, progress: ShowProgress
) -> list[SharedPictures]:
    sizes = [len(split.image_ids) for split in splits]
    split_of = np.repeat(np.arange(len(splits)), sizes)
    starts = np.cumsum([0, *sizes[:-1]])
    content = [each for split in splits for each in split.content]
    numbers: dict[bytes, int] = {}
    group = np.array([numbers.setdefault(each, len(numbers)) for each in content], np.int64)
    leaders = np.unique(group, return_index=True)[1]
    looks = np.concatenate([split.looks for split in splits])[leaders]
    if looks.dtype == bool:
        vectors, least = np.where(looks, np.float32(1), np.float32(-1)), BITS - 2 * ALIKE
    else:
        vectors, least = _directions(looks), close
    near = find_close(vectors, least, lambda done, total: progress("comparing", done, total))
    if len(near) > _MOST_PAIRS:
        raise UserError(f"{len(near):,} pairs of images are alike: the features say little, or raise --close")
    order = np.argsort(group, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(group))])
    members = [order[ends[number] : ends[number + 1]] for number in range(len(leaders))]
    equal, alike = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    for one in members:
        if len(one) > 1:
            first, second = np.triu_indices(len(one), 1)
            equal.append(np.stack([one[first], one[second]], axis=1))
    for one, other in near.tolist():
        pairs = np.stack(np.meshgrid(members[one], members[other], indexing="ij"), axis=-1).reshape(-1, 2)
        alike.append(np.sort(pairs, axis=1))
    both = [np.concatenate(equal), np.concatenate(alike)]
    found = []
    for first, second in combinations_with_replacement(range(len(splits)), 2):
        own = [
            pairs[(split_of[pairs[:, 0]] == first) & (split_of[pairs[:, 1]] == second)]
            - (starts[first], starts[second])
            for pairs in both
        ]
        found.append(SharedPictures(splits[first].name, splits[second].name, *own))
    return found


def _directions(features: np.ndarray) -> np.ndarray:
    """Return centred features [N,F] as unit vectors; a vector that is the mean has no direction, and is 0."""
    centred = features - features.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-6)


def _shared_sentences(first: AuditedSplit, second: AuditedSplit) -> SharedSentences | None:
    if not first.captions or not second.captions:
        return None
    found = []
    for how in (str, said):
        keys = [how(text) for text in second.captions]
        if first is second:
            owners = Counter(key for key, _ in set(zip(keys, first.caption_image.tolist(), strict=True)))
            found.append(np.array([place for place, key in enumerate(keys) if owners[key] > 1], np.int64))
        else:
            known = {how(text) for text in first.captions}
            found.append(np.array([place for place, key in enumerate(keys) if key in known], np.int64))
    equal, alike = found
    return SharedSentences(first.name, second.name, equal, np.setdiff1d(alike, equal))


@dataclass(frozen=True)
class Recount:
    """A result without some queries: what they are (empty: none), how many are left, and the metrics."""

    without: str
    left: dict[str, int]
    metrics: dict[str, Certified]


def recounts(
    found: Audit, ranks: StoredRanks, split: str, resamples: int, seed: int
) -> tuple[list[Recount], list[str]]:
    """Return the metrics of all queries, and without those that a leak or a duplicate concerns.

    Queries are left out, and the gallery stays as it was, since ranks were counted in it. Also returns the
    kinds of which no query would be left. Raises UserError for ranks of another split than the audited one.
    """
    own = found.by_name.get(split)
    if own is None:
        raise UserError(f"{ranks.path}: ranks of {split}, expected one of {', '.join(found.by_name)}")
    names = {"images": own.image_ids, "queries": own.image_ids, "captions": own.captions}
    for name, values in names.items():
        if ranks.digests.get(name, digest_of(values)) != digest_of(values):
            raise UserError(
                f"{ranks.path}: other {name} than the audited data has: name the data that was evaluated"
            )
    kinds, nothing_left = _kinds(found, own), []
    counted = []
    for without, (images, captions) in kinds.items():
        gone = np.isin(np.arange(len(own.image_ids)), images)
        said_too = np.isin(np.arange(len(own.captions)), captions)
        sides: Sides = {}
        for prefix, side in ranks.sides.items():
            left_out = gone[own.caption_image] | said_too if prefix == "t2i_" else gone
            sides[prefix] = side.only(~left_out[side.query])
        # Metrics are means over folds, so that each must have a query.
        if any(len(np.setdiff1d(side.fold, sides[prefix].fold)) for prefix, side in ranks.sides.items()):
            nothing_left.append(without)
            continue
        left_of = {prefix: len(side.query) for prefix, side in sides.items()}
        if counted and left_of == counted[0].left:  # it concerns no query
            continue
        counted.append(Recount(without, left_of, certify(sides, ranks.tie_rule, resamples, seed)))
    return counted, nothing_left


def _kinds(found: Audit, own: AuditedSplit) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the places of the images and of the captions that each recount leaves out, by its name."""
    none = np.empty(0, np.int64)
    kinds = {"": (none, none)}
    others = [split.name for split in found.splits if split is not own]
    across, within = [], none
    for each in found.pictures:
        pairs = np.concatenate([each.equal, each.alike])
        if each.first == each.second == own.name:
            within = np.unique(pairs)
        elif own.name in (each.first, each.second):
            across.append(np.unique(pairs[:, 0 if each.first == own.name else 1]))
    leaked = np.unique(np.concatenate([none, *across]))
    kinds[f"pictures that {_either(others)} has too"] = (leaked, none)
    kinds[f"pictures that {own.name} has twice"] = (within, none)
    texts = [said(text) for text in own.captions]
    elsewhere = {said(text) for split in found.splits if split is not own for text in split.captions}
    repeated = np.array([place for place, text in enumerate(texts) if text in elsewhere], np.int64)
    twice = next((each for each in found.sentences if each.first == each.second == own.name), None)
    of_several = np.concatenate([twice.equal, twice.alike]) if twice else none
    if own.captions:
        kinds[f"sentences that {_either(others)} has too"] = (none, repeated)
        kinds[f"sentences of several images of {own.name}"] = (none, of_several)
    kinds["any of these"] = (
        np.union1d(leaked, within),
        np.union1d(repeated, of_several),
    )
    return kinds


def _either(names: Sequence[str]) -> str:
    return " or ".join(names) or "another split"
