"""Preparing pairs for Oscar, without the model: tokens, tags and regions, against the original's way.

The data are 400 images of 20 to 50 regions x 2054 in VinVL's TSV, each with five captions and 10 to 30 tags.
For each pair, the original (one process, plain Python and NumPy) tokenizes caption and tags, reads and
decodes the image's line, and pads with zeros to 70 tokens and 50 regions. Ours tokenizes all texts at the
start, reads an image once a batch, and pads to the longest pair of the batch.

- `scored`: the pairs of a cross evaluation, from the same TSV, 128 a batch.
- `trained`: positive and negative pairs, 32 captions a batch, from the TSV converted to HDF5 in float16, as
  docs/data.md advises. The speed from the TSV itself is printed, too. The original reads an image for the
  positive pair, and another one if the negative pair has another image.
"""

from _report import alternate, report, seconds
from _plain_wordpiece import PlainWordPiece
from _race import corpora

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from datasets.conversion.contents import read_contents
from datasets.conversion.writer import FeatureDraft
from datasets.features.store import FeatureStore
from datasets.features.hdf5 import Hdf5Features
from datasets.pair_dataset import PairDataset
from datasets.samplers.pairs import PairSampler
from datasets.pairs import CrossPairs, Pairs
from datasets.captions.tags import tags_of_features
from datasets.features.tsv import TsvFeatures
from datasets.captions.vinvl import load_vinvl_captions
from datasets.words.wordpiece import WordPiece

IMAGES, WIDTH, CAPTIONS, NAMES = 400, 2054, 5, 1600
TOKENS, REGIONS = 70, 50
SCORED, TRAINED = 128, 32  # pairs in a batch to score, captions in a batch to train on
TURN = 400  # pairs that the original prepares in a turn, at least; ours prepares ten times as many


@dataclass(frozen=True)
class Original:
    """The original's data set, which prepares each pair by itself."""

    folder: Path
    tokenizer: PlainWordPiece
    captions: list[str]
    tags: list[str]  # the tags of each image, joined by spaces
    starts: list[int]

    def scored(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Return a batch of pairs to score; the image of each pair is read."""
        with open(self.folder / "features.tsv") as file:
            examples = [
                self.example(self.captions[caption], self.tags[image], self.read(file, image))
                for image, caption in zip(pairs.images.tolist(), pairs.captions.tolist(), strict=True)
            ]
        return stack(examples)

    def trained(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Return a batch of positive, then negative pairs; an image that both need is read once."""
        half, positives, negatives = len(pairs) // 2, [], []
        with open(self.folder / "features.tsv") as file:
            for place in range(half):
                image, caption = int(pairs.images[place]), int(pairs.captions[place])
                other, wrong = int(pairs.images[half + place]), int(pairs.captions[half + place])
                features = self.read(file, image)
                positives.append(self.example(self.captions[caption], self.tags[image], features))
                if other != image:
                    features = self.read(file, other)
                negatives.append(self.example(self.captions[wrong], self.tags[other], features))
        return stack(positives + negatives)

    def read(self, file, image: int) -> np.ndarray:
        file.seek(self.starts[image])
        _, count, features = (column.strip() for column in file.readline().split("\t"))
        return np.frombuffer(base64.b64decode(features), np.float32).reshape(int(count), -1)

    def example(self, caption: str, tags: str, features: np.ndarray) -> dict[str, np.ndarray]:
        first = ["[CLS]", *self.tokenizer.tokenize(caption)[: TOKENS - 2], "[SEP]"]
        second = [*self.tokenizer.tokenize(tags)[: TOKENS - len(first) - 1], "[SEP]"]
        text, rest = len(first) + len(second), TOKENS - len(first) - len(second)
        features = features[:REGIONS]
        empty = REGIONS - len(features)
        return {
            "token_ids": np.array([self.tokenizer.ids[piece] for piece in first + second] + [0] * rest),
            "segment_ids": np.array([0] * len(first) + [1] * len(second) + [0] * rest),
            "mask": np.array([1] * text + [0] * rest + [1] * len(features) + [0] * empty),
            "regions": np.concatenate([features, np.zeros((empty, WIDTH), np.float32)]),
        }


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus, captions = list(corpora("train", IMAGES * CAPTIONS).items())[-1]
        tags = write_corpus(folder, captions)
        tsv = TsvFeatures(folder / "features.tsv")
        hdf5 = convert(tsv, folder / "features.h5")
        starts = [int(line) for line in (folder / "features.lineidx").read_text().split()]
        original = Original(folder, PlainWordPiece(folder / "vocab.txt"), captions, tags, starts)
        datasets = {store: open_dataset(folder, store) for store in (tsv, hdf5)}
        print(f"{corpus}; {seconds(lambda: open_dataset(folder, tsv)):.2f} s to tokenize all texts, once")
        scored = race(datasets[tsv], original.scored, scored_batches(datasets[tsv]), exact=True)
        slower = race(datasets[tsv], original.trained, trained_batches(datasets[tsv]), exact=True)
        trained = race(datasets[hdf5], original.trained, trained_batches(datasets[hdf5]), exact=False)
    print("pairs/s          ours   original")
    for name, (ours, baseline) in {
        "scored": scored,
        "trained, TSV": slower,
        "trained, HDF5": trained,
    }.items():
        print(f"{name:14} {ours:7.0f} {baseline:7.0f}  {ours / baseline:.1f}")
    for name, (ours, baseline) in {"scored": scored, "trained": trained}.items():
        report(f"preparing a pair to be {name}", ours, baseline, 20, "pairs/s", higher_is_better=True)


def race(dataset: PairDataset, original: Callable, batches: list[Pairs], exact: bool) -> tuple[float, float]:
    """Return the pairs/s of ours and of the original, after comparing some of their batches."""
    for pairs in (batches[0], batches[-1]):
        compare(dataset.batch(pairs), original(pairs), exact)
    ours, theirs = cycle(batches), cycle(batches)
    return alternate(lambda: prepare(dataset.batch, ours, 10 * TURN), lambda: prepare(original, theirs, TURN))


def prepare(make: Callable[[Pairs], dict], batches: Iterator[Pairs], at_least: int) -> float:
    """Return the pairs/s of `make` on batches with `at_least` so many pairs in total."""
    chosen: list[Pairs] = []
    while sum(map(len, chosen)) < at_least:
        chosen.append(next(batches))
    taken = seconds(lambda: [make(pairs)["token_ids"].shape for pairs in chosen])
    return sum(map(len, chosen)) / taken


def compare(ours: dict[str, np.ndarray], original: dict[str, np.ndarray], exact: bool) -> None:
    """Raise AssertionError if batches differ in more than padding and, unless `exact`, float16 rounding."""
    width = ours["token_ids"].shape[1]
    for name in ("token_ids", "segment_ids"):
        assert (ours[name] == original[name][:, :width]).all() and not original[name][:, width:].any(), name
    counts = ours["num_regions"][ours["image_row"]]
    mask = [np.arange(TOKENS) < ours["text_len"][:, None], np.arange(REGIONS) < counts[:, None]]
    assert (np.concatenate(mask, axis=1) == original["mask"]).all()
    regions = original["regions"][:, : ours["regions"].shape[1]]
    assert np.allclose(ours["regions"][ours["image_row"]], regions, rtol=0 if exact else 1e-3, atol=0)


def scored_batches(dataset: PairDataset) -> list[Pairs]:
    """Return batches of about eight blocks, evenly spaced in a cross evaluation."""
    blocks = CrossPairs(
        *(np.arange(dataset.num_images), np.arange(dataset.num_captions)),
        *(dataset.image_lengths, dataset.caption_lengths),
        block_pairs=8 * SCORED,
    )
    chosen = range(0, len(blocks), max(1, len(blocks) // 8))
    return [batch for index in chosen for batch in blocks.block(index).batches(SCORED)]


def trained_batches(dataset: PairDataset) -> list[Pairs]:
    return PairSampler(dataset, TRAINED, seed=0).batches(epoch=0)


def stack(examples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def open_dataset(folder: Path, features: FeatureStore) -> PairDataset:
    split = load_vinvl_captions(folder / "captions.json", features)
    word_piece = WordPiece.load(folder / "vocab.txt")
    return PairDataset(features, split, word_piece, tags_of_features(features, split), TOKENS, REGIONS)


def convert(source: TsvFeatures, target: Path) -> Hdf5Features:
    """Return `source` in HDF5 and float16, converted as by tools/convert_features.py."""
    draft = FeatureDraft(target, source, read_contents(source), "float16")
    draft.write()
    draft.finish()
    return Hdf5Features(target)


def write_corpus(folder: Path, captions: list[str]) -> list[str]:
    """Write captions, features, predictions and a vocabulary of whole words; return each image's tags."""
    random, tags = np.random.default_rng(0), []
    with open(folder / "features.tsv", "w") as features, open(folder / "predictions.tsv", "w") as seen:
        for image in range(IMAGES):
            values = random.random((random.integers(20, REGIONS + 1), WIDTH), dtype=np.float32)
            features.write(f"{image}\t{len(values)}\t{base64.b64encode(values.tobytes()).decode()}\n")
            names = [f"thing{code}" for code in random.integers(NAMES, size=random.integers(10, 31))]
            objects = [{"class": name, "rect": [0, 0, 9, 9], "conf": 0.5} for name in names]
            seen.write(f"{image}\t{json.dumps({'image_w': 640, 'image_h': 480, 'objects': objects})}\n")
            tags.append(" ".join(names))
    owned = {str(image): captions[image * CAPTIONS : (image + 1) * CAPTIONS] for image in range(IMAGES)}
    (folder / "captions.json").write_text(json.dumps(owned))
    WordPiece.build(captions + tags).save(folder / "vocab.txt")
    return tags


if __name__ == "__main__":
    main()
