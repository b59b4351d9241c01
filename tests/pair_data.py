"""Small data of pairs made up for tests, and a cross encoder whose score plain loops repeat."""

from pathlib import Path

import numpy as np
import paddle

from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.words.wordpiece import MARKERS, WordPiece

WORDS = [f"word{number}" for number in range(30)]
REGIONS, WIDTH = 3, 4


class PlainScorer(paddle.nn.Layer):
    """Score a pair by a number that every token at its place, segment and region changes; count the pairs."""

    def __init__(self, levels: int = 0) -> None:
        """`levels`: so many different scores, so that there are ties; 0: as they come."""
        super().__init__()
        self.levels, self.pairs, self.largest_batch, self.images_read = levels, 0, 0, 0

    def score_pairs(self, batch):
        assert not self.training and not paddle.is_grad_enabled()
        ids, length = batch["token_ids"].numpy(), batch["text_len"].numpy()
        self.pairs += len(ids)
        self.images_read += len(batch["regions"])
        lengths = length + batch["num_regions"].numpy()[batch["image_row"].numpy()]
        self.largest_batch = max(self.largest_batch, int(lengths.sum()))
        present = np.arange(ids.shape[1]) < length[:, None]
        places = np.arange(1, ids.shape[1] + 1) * (1 + batch["segment_ids"].numpy())
        text = (np.where(present, ids, 0) * places).sum(axis=1)
        image = (batch["regions"].numpy().sum(axis=(1, 2)) * 1000).astype(np.int64)[
            batch["image_row"].numpy()
        ]
        score = (text * 7919 + image * 104729) % 10007 / 10007
        score = np.floor(score * self.levels) / self.levels if self.levels else score
        return paddle.to_tensor(score.astype(np.float32))


def pair_dataset(folder: Path, images: int = 13, seed: int = 0) -> PairDataset:
    """Return images with 1 to 5 captions each, in any order, some of which are one sentence."""
    random = np.random.default_rng(seed)
    features = random.integers(0, 9, (images, REGIONS, WIDTH)).astype(np.float32) / 8
    np.save(folder / "test_ims.npy", features)
    caption_image = random.permutation(np.repeat(np.arange(images), random.integers(1, 6, images)))
    captions = [" ".join(random.choice(WORDS, random.integers(2, 9))) for _ in caption_image]
    captions[3::4] = captions[: len(captions[3::4])]
    split = CaptionSplit(
        "test", [f"{n}.jpg" for n in range(images)], np.arange(images), captions, caption_image
    )
    tags = [list(random.choice(WORDS, random.integers(0, 4))) for _ in range(images)]
    word_piece = WordPiece([*MARKERS, *WORDS])
    return PairDataset(NpyFeatures(folder / "test_ims.npy", WIDTH), split, word_piece, tags, 20, REGIONS)


def dense_scores(dataset: PairDataset, levels: int = 0) -> np.ndarray:
    """Return the scores [images, captions] of `PlainScorer`, every pair on its own."""
    model = PlainScorer(levels)
    model.eval()
    scores = np.empty((dataset.num_images, dataset.num_captions), np.float32)
    with paddle.no_grad():
        for image in range(dataset.num_images):
            for caption in range(dataset.num_captions):
                pairs = Pairs(np.array([image]), np.array([caption]))
                batch = {name: paddle.to_tensor(array) for name, array in dataset.batch(pairs).items()}
                scores[image, caption] = model.score_pairs(batch).numpy()[0]
    return scores
