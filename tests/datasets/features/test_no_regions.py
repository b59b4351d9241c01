"""An image in which a detector found nothing has no regions, and ends nothing."""

import numpy as np
import paddle
import pytest

from datasets.captions.load import CaptionSplit
from datasets.conversion.contents import read_contents
from datasets.conversion.writer import FeatureDraft
from datasets.features.box_terms import BoxTermFeatures
from datasets.features.formats import open_features
from datasets.features.tsv import TsvFeatures
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.retrieval_dataset import RetrievalDataset
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from models.vsrn import RegionEncoder
from tests.closeness import assert_close
from tests.region_files import check_equal, check_refused, make_regions, write_tsv

COUNTS = [3, 0, 5, 0]


@pytest.fixture(params=["vinvl", "bottom_up", "lxmert", "float32", "float16", "int8"])
def store(request, tmp_path):
    kind = request.param
    of_tsv = kind if kind in ("vinvl", "bottom_up") else "lxmert"
    source = TsvFeatures(write_tsv(tmp_path / "features.tsv", make_regions(COUNTS), of_tsv))
    if kind in ("vinvl", "bottom_up", "lxmert"):
        return source
    draft = FeatureDraft(tmp_path / "a.h5", source, read_contents(source), kind)
    draft.write()
    draft.finish()
    return open_features(tmp_path / "a.h5")


def test_it_is_read_as_nothing(store):
    assert store.counts(np.arange(4)).tolist() == COUNTS
    assert store[1].features.shape == (0, 6) and store[1].boxes.shape == (0, 4)
    padded, pooled = store.gather(np.arange(4), False), store.gather(np.arange(4), True)
    assert padded.shape == (4, 5, 6) and not padded[[1, 3]].any() and not pooled[[1, 3]].any()
    assert_close(pooled[2], padded[2].mean(axis=0), 6, np.abs(padded).max())
    assert store.gather(np.array([1, 3]), False).shape == (2, 1, 6)
    assert store.describe() == "0 to 5 regions x 6 features"
    every = np.concatenate([padded[0, :3], padded[2]])
    assert_close(store.moments(pool=False)[0], every.mean(axis=0), 20, np.abs(every).max())
    assert BoxTermFeatures(store).gather(np.arange(4), False).shape == (4, 5, 12)


def test_what_is_there_is_as_it_was(tmp_path):
    images = make_regions(COUNTS)
    found = TsvFeatures(write_tsv(tmp_path / "features.tsv", images, "vinvl"))
    for row in (0, 2):
        check_equal(found[row], images[f"image {row}"])
    assert found.annotations(1).tags == []


def test_a_file_without_any_region_is_one_line(tmp_path):
    path = write_tsv(tmp_path / "features.tsv", make_regions([0, 0]), "vinvl")
    check_refused(lambda: TsvFeatures(path), ["features.tsv: no image has a region"])


def split_of(store):
    return CaptionSplit("test", store.image_ids, np.arange(4), ["a", "b", "c", "d"], np.arange(4))


def test_a_pair_reads_its_text_alone(store):
    dataset = PairDataset(store, split_of(store), WordPiece.build("abcd"), None)
    batch = dataset.batch(Pairs(np.array([1, 3, 2]), np.array([0, 1, 2])))
    assert batch["num_regions"].tolist() == [0, 5, 0]  # of the images 1, 2 and 3
    assert dataset.pair_lengths(Pairs(np.array([1]), np.array([0]))).tolist() == [3]


def test_a_region_encoder_sees_one_region_of_zeros(store):
    vocabulary = Vocabulary.build(["a b c d"], "simple", 1, "vsepp")
    dataset = RetrievalDataset(store, split_of(store), vocabulary, pool_regions=False)
    batch = {name: paddle.to_tensor(value) for name, value in dataset.image_batch(np.arange(4)).items()}
    assert batch["num_regions"].tolist() == [3, 1, 5, 1]
    encoder = RegionEncoder(6, 4, 1)
    encoder.eval()
    embedded = encoder(batch["regions"], batch["num_regions"]).numpy()
    assert np.isfinite(embedded).all()
    np.testing.assert_array_equal(embedded[1], embedded[3])
