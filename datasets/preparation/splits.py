"""Split photos into train, dev and test, so that those that look alike stay together."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from config.errors import UserError
from datasets.preparation.checks import SPLITS
from datasets.preparation.near_duplicates import find_alike, group_alike
from datasets.preparation.photos import Seen
from datasets.preparation.problems import LOOK_ALIKE, NEAR_DUPLICATES, Problems

_LARGE = 0.1  # of all photos: a larger group looks alike as drawings and screenshots do, and is not one motif
_FEWEST = 3  # photos with captions: one for each split


def split_photos(
    names: Sequence[str],
    seen: dict[str, Seen],
    given: dict[str, str],
    shares: tuple[float, float],
    seed: int,
    problems: Problems,
) -> tuple[dict[str, str], int]:
    """Return the split of each photo, and the number of groups of photos that look alike and stay together.

    `given` are splits that stand already, "" for none. Of the other photos, the `shares` (dev, test) of all
    are drawn by `seed`; a group of photos that look alike follows the first of it that has a split. Where
    given splits tear a group apart, this is added to `problems`; a split that they lack is drawn from train.
    Raises UserError for too few photos.
    """
    if len(names) < _FEWEST:
        raise UserError(
            f"{len(names)} pictures with captions, expected at least one for each of {', '.join(SPLITS)}"
        )
    group = _groups(names, seen, problems)
    split = {name: given.get(name, "") for name in names}
    first_of: dict[int, str] = {}
    for name, number in zip(names, group.tolist(), strict=True):
        if split[name] and split[first_of.setdefault(number, name)] != split[name]:
            first = first_of[number]
            problems.add(NEAR_DUPLICATES, f"{name} ({split[name]}) and {first} ({split[first]})")
    of_group = {number: split[name] for number, name in first_of.items()}
    counts = Counter(filter(None, split.values()))
    absent = [name for name in SPLITS if counts and not counts[name]]
    if "train" in absent:
        raise UserError(
            f"the pictures are of {' and '.join(counts)} alone, expected train among their splits"
        )
    drawn = _draw(group, of_group, absent, shares, seed, counts)
    for name, number in zip(names, group.tolist(), strict=True):
        split[name] = drawn.get(number) or split[name] or of_group[number]
    return split, sum(count > 1 for count in Counter(group.tolist()).values())


def _groups(names: Sequence[str], seen: dict[str, Seen], problems: Problems) -> np.ndarray:
    """Return each photo's group, int64 [N]; large groups are taken apart, and added to `problems`."""
    hashes = np.stack([seen[name].hash for name in names])
    group = group_alike(len(names), find_alike(hashes))
    for number, count in Counter(group.tolist()).items():
        if count > max(2, _LARGE * len(names)):
            members = np.flatnonzero(group == number)
            problems.add(LOOK_ALIKE, f"{count} pictures, such as {names[members[0]]} and {names[members[1]]}")
            group[members] = members
    return group


def _draw(
    group: np.ndarray,
    of_group: dict[int, str],
    absent: list[str],
    shares: tuple[float, float],
    seed: int,
    counts: Counter,
) -> dict[int, str]:
    """Return the split of each group that has none in `of_group`, in an order that `seed` draws.

    Splits that are `absent` from given ones are drawn from train, too.
    """
    sizes = Counter(group.tolist())
    free = [number for number in sizes if number not in of_group or (absent and of_group[number] == "train")]
    np.random.default_rng(seed).shuffle(free)
    wanted = {"dev": shares[0], "test": shares[1]}
    drawn = {}
    for number in sorted(free, key=sizes.__getitem__):  # single photos first: they fill a split exactly
        if number in of_group:
            counts["train"] -= sizes[number]
        lacking = [
            name
            for name, share in wanted.items()
            if counts[name] < max(1, round(share * len(group))) and (number not in of_group or name in absent)
        ]
        drawn[number] = lacking[0] if lacking else "train"
        counts[drawn[number]] += sizes[number]
    return drawn
