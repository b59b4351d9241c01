"""The data of Oscar's races: the corpus of prepare_pairs.py, and the pairs that are scored."""

from _race import FLOAT32, can_race, corpora, take_turns
from _report import report
from prepare_pairs import CAPTIONS, IMAGES, REGIONS, TOKENS, open_dataset, write_corpus

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.features.tsv import TsvFeatures

SCORED_IMAGES, SCORED_CAPTIONS = 8, 16
BERT_WORDS = 30522


def race_oscar(task: str, goals: dict[str, float], claim: str, unit: str) -> None:
    """Race ours, in each precision that has a goal, against the twin in float32; `task` is train or score."""
    for precision, goal in goals.items():
        name = f"{claim}, {precision}"
        if can_race((precision,), name):
            with oscar_corpus() as (corpus, folder):
                measured = take_turns(task, "oscar", folder, (precision, FLOAT32))
            report(f"{name}, {corpus}", *measured, goal=goal, unit=unit, higher_is_better=True)


@contextmanager
def oscar_corpus() -> Iterator[tuple[str, Path]]:
    """Write the corpus for the time of the block; give its name and folder."""
    corpus, captions = list(corpora("train", IMAGES * CAPTIONS).items())[-1]  # real captions if there are any
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder, captions)
        pad_vocabulary(folder / "vocab.txt")
        dataset = open_corpus(folder)
        lengths = dataset.pair_lengths(cross_pairs(dataset))
        print(f"{corpus}: {lengths.mean():.1f} of {TOKENS + REGIONS} positions are no padding", flush=True)
        yield corpus, folder


def pad_vocabulary(vocabulary: Path) -> None:
    """Extend the vocabulary file to BERT's size by unused words."""
    known = vocabulary.read_text(encoding="utf-8")
    unused = (f"[unused{number}]\n" for number in range(BERT_WORDS - known.count("\n")))
    vocabulary.write_text(known + "".join(unused), encoding="utf-8")


def open_corpus(folder: Path) -> PairDataset:
    return open_dataset(folder, TsvFeatures(folder / "features.tsv"))


def cross_pairs(dataset: PairDataset) -> Pairs:
    """Return all pairs of some images with some captions, image by image, as the original scores them."""
    random = np.random.default_rng(1)
    images = random.choice(dataset.num_images, SCORED_IMAGES, replace=False)
    captions = random.choice(dataset.num_captions, SCORED_CAPTIONS, replace=False)
    return Pairs(np.repeat(images, SCORED_CAPTIONS), np.tile(captions, SCORED_IMAGES))
