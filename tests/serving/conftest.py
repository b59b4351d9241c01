"""Tiny data sets, of six pictures and of three with regions, and untrained models to search them with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.retrieval_dataset import RetrievalDataset
from datasets.words.vocabulary import Vocabulary
from models.captioner import Captioner
from models.dual_encoder import DualEncoder
from models.encoders import GRUTextEncoder, ImageEncoder
from models.vsrn import VSRN, RegionEncoder
from serving.reports.pictures import PictureFolder
from serving.splits.split_searcher import SplitSearcher

CAPTIONS = ["a red dog", "a dog", "the blue cat", "a cat", "the red sun", "a sun"] * 2


@pytest.fixture
def pictures(tmp_path) -> PictureFolder:
    for number in range(6):
        Image.new("RGB", (40 + number, 30), (40 * number, 20, 90)).save(tmp_path / f"image_{number}.png")
    return PictureFolder(tmp_path)


@pytest.fixture
def dataset(tmp_path) -> RetrievalDataset:
    features = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", features)
    split = CaptionSplit(
        "test", [f"image_{number}" for number in range(6)], np.arange(6), CAPTIONS, np.arange(12) // 2
    )
    vocabulary = Vocabulary.build(CAPTIONS, "simple", 1, "vsepp")
    return RetrievalDataset(NpyFeatures(tmp_path / "test_ims.npy"), split, vocabulary)


@pytest.fixture
def searcher(dataset) -> SplitSearcher:
    paddle.seed(0)
    model = DualEncoder(
        ImageEncoder(8, 16, normalize=True, absolute=False),
        GRUTextEncoder(len(dataset.vocabulary), 8, 16, num_layers=1, bidirectional=False, absolute=False),
        measure="cosine",
    )
    model.eval()
    return SplitSearcher(model, dataset)


@pytest.fixture
def vsepp(tmp_path) -> SplitSearcher:
    """Return a searcher of three images of four regions, by a model that averages them."""
    return _region_searcher(tmp_path, lambda text, _: DualEncoder(ImageEncoder(8, 16), text), pool=True)


@pytest.fixture
def vsrn(tmp_path) -> SplitSearcher:
    """Return a searcher of the same images, by one with a graph and a caption decoder."""

    def make_model(text: paddle.nn.Layer, words: int) -> VSRN:
        captioner = Captioner(16, words, word_dim=8, hidden_dim=8, max_len=7)
        return VSRN(RegionEncoder(8, 16, num_blocks=2), text, captioner=captioner)

    return _region_searcher(tmp_path, make_model, pool=False)


def _region_searcher(folder: Path, make_model: Callable, pool: bool) -> SplitSearcher:
    regions = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    np.save(folder / "regions.npy", regions)
    captions = ["a red dog", "a dog", "the blue cat", "a cat", "the red sun", "the red sun"]
    split = CaptionSplit("test", ["image_0", "image_1", "image_2"], np.arange(3), captions, np.arange(6) // 2)
    vocabulary = Vocabulary.build(captions, "simple", 1, "vsepp")
    dataset = RetrievalDataset(NpyFeatures(folder / "regions.npy"), split, vocabulary, pool_regions=pool)
    paddle.seed(3)
    model = make_model(GRUTextEncoder(len(vocabulary), 8, 16), len(vocabulary))
    model.eval()
    return SplitSearcher(model, dataset)
