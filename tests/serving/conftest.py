"""A tiny data set of six pictures, and an untrained model to search it with."""

import numpy as np
import paddle
import pytest
from PIL import Image

from datasets.captions import CaptionSplit
from datasets.features import NpyFeatures
from datasets.retrieval_dataset import RetrievalDataset
from datasets.text import Vocabulary
from models.encoders import GRUTextEncoder, ImageEncoder
from models.vse import DualEncoder
from serving.pictures import PictureFolder
from serving.searcher import Searcher

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
def searcher(dataset) -> Searcher:
    paddle.seed(0)
    model = DualEncoder(
        ImageEncoder(8, 16, normalize=True, absolute=False),
        GRUTextEncoder(len(dataset.vocabulary), 8, 16, num_layers=1, bidirectional=False, absolute=False),
        measure="cosine",
    )
    model.eval()
    return Searcher(model, dataset.vocabulary, dataset)
