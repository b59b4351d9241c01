"""What the splits of known data sets hold: numbers of images, and what surprises people about them."""

from collections.abc import Callable
from dataclasses import dataclass

KARPATHY = "Karpathy and Fei-Fei (2015)"


@dataclass(frozen=True)
class KnownSet:
    """The numbers of images of each split of a data set; several if its files come in several sizes.

    `source` tells who made the splits. `surprise` returns a note on a split with that many images and
    captions that is read in that many folds, or "".
    """

    source: str
    images: dict[str, tuple[int, ...]]
    surprise: Callable[[str, int, int, int], str] = lambda split, images, captions, folds: ""


def _flickr30k(split: str, images: int, captions: int, folds: int) -> str:
    if images == 1014:
        return (
            f"{split}: {images:,} images and {captions:,} captions, as in the split of {KARPATHY}; VSE++ and "
            "VSRN validate on its first 5,000 captions alone, so their numbers on it are of 1,000 images"
        )
    return ""


def _coco(split: str, images: int, captions: int, folds: int) -> str:
    if split.startswith("train") and images == 82_783:
        return (
            f"{split}: {images:,} images, without the 30,504 of restval on which the papers' best rows train "
            "too (DATASET.USE_RESTVAL with Karpathy's JSON)"
        )
    if split.startswith("test") and images == 1000:
        return (
            f"{split}: 1,000 images, a fifth of the test split; the papers' 1K is the mean of five such "
            "parts: DATASET.TEST=testall EVAL.FOLDS=5"
        )
    if split.startswith("test") and images == 5000 and folds == 1:
        return f"{split}: one list of 5,000 images is the 5K protocol; the 1K one is EVAL.FOLDS=5"
    if split in ("dev", "val") and images == 1000:
        return f"{split}: 1,000 images, a part of the 5,000 in the split of {KARPATHY}"
    return ""


KNOWN_SETS: dict[str, KnownSet] = {
    "f8k": KnownSet(
        "Hodosh et al. (2013)", {"train": (6000,), "dev": (1000,), "val": (1000,), "test": (1000,)}
    ),
    "f30k": KnownSet(
        KARPATHY,
        {"train": (29_000,), "dev": (1014, 1000), "val": (1014, 1000), "test": (1000,)},
        _flickr30k,
    ),
    "coco": KnownSet(
        KARPATHY,
        {
            "train": (113_287, 82_783),
            "dev": (5000, 1000),
            "val": (5000,),
            "minival": (5000,),
            "test": (5000, 1000),
            "testall": (5000,),
        },
        _coco,
    ),
    "rsicd": KnownSet(
        "Lu et al. (2018)", {"train": (8734,), "dev": (1094,), "val": (1094,), "test": (1093,)}
    ),
    "ucm_captions": KnownSet(
        "Qu et al. (2016)", {"train": (1680,), "dev": (210,), "val": (210,), "test": (210,)}
    ),
    "sop": KnownSet(
        "Song et al. (2016), and tools/prepare_sop.py",
        {
            "train": (59_551,),
            "test": (60_502,),
            "train_half": (29_437,),
            "test_half": (30_003,),
            "train_tiny": (1012,),
            "test_tiny": (1048,),
        },
    ),
}
