"""A full evaluation, one of some images and one of candidates find the original Oscar's scores and ranks."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.captions.tags import tags_of_features
from datasets.captions.vinvl import load_vinvl_captions, read_caption_index
from datasets.features.box_terms import open_regions
from datasets.pair_dataset import PairDataset
from datasets.words.wordpiece import WordPiece
from engine.evaluation.cross import cross_blocks, evaluate_candidates, evaluate_cross, rank_cross
from engine.evaluation.pair_scoring import score_blocks
from engine.evaluation.scores.shards import MemoryScores
from tests.parity.test_oscar_parity import oscar_of

TOKENS, REGIONS, WIDTH = 24, 10, 54


@pytest.fixture(scope="module")
def oscar(shared) -> Path:
    return shared / "fixtures" / "oscar"


@pytest.fixture(scope="module")
def golden(oscar) -> dict[str, np.ndarray]:
    return dict(np.load(oscar / "oscar.npz"))


@pytest.fixture(scope="module")
def model(oscar):
    return oscar_of(dict(np.load(oscar / "oscar.weights.npz")))


@pytest.fixture
def open_dataset(oscar, tmp_path):
    """Return a function that opens the fixture's test split, or the images of a file of keys."""
    path = tmp_path / "test_captions.json"
    path.write_text(json.dumps(json.loads((oscar / "oscar.json").read_text())["captions"]))
    features = open_regions(oscar / "features.tsv", WIDTH)

    def open_dataset(keys_path: Path | None = None) -> PairDataset:
        split = load_vinvl_captions(path, features, keys_path)
        word_piece = WordPiece.load(oscar / "vocab.txt")
        return PairDataset(features, split, word_piece, tags_of_features(features, split), TOKENS, REGIONS)

    return open_dataset


def in_percent(fractions: np.ndarray) -> list[float]:
    return pytest.approx((100 * fractions).tolist())


def test_all_pairs(model, open_dataset, golden, tmp_path):
    dataset = open_dataset()
    blocks = cross_blocks(dataset, 1, 24)
    store = MemoryScores(len(blocks))
    score_blocks(model, dataset, blocks, store, batch_tokens=150)
    result = rank_cross(blocks, store, dataset, "test", scores_path=tmp_path / "scores.npz")
    scores = np.load(tmp_path / "scores.npz")["scores"]
    probabilities = 1 / (1 + np.exp(-scores.reshape(-1)))
    np.testing.assert_allclose(probabilities, golden["probs"], atol=1e-5)
    assert result.i2t_ranks.tolist() == golden["i2t_ranks"].tolist()
    assert result.t2i_ranks.tolist() == golden["t2i_ranks"].tolist()
    for way in ("i2t", "t2i"):
        found = [result.metrics[f"{way}_r{k}"] for k in (1, 5, 10)]
        assert found == in_percent(golden[f"{way}_acc"])


def test_the_images_of_a_key_file_in_its_order(model, oscar, open_dataset, golden):
    dataset = open_dataset(oscar / "test_img_keys.tsv")
    assert dataset.image_ids == ["103", "101", "102"]
    result = evaluate_cross(model, dataset, "test")
    assert result.i2t_ranks.tolist() == golden["subset_i2t_ranks"].tolist()
    assert result.t2i_ranks.tolist() == golden["subset_t2i_ranks"].tolist()


def test_the_candidates_of_an_index_file(model, open_dataset, golden, tmp_path):
    dataset = open_dataset()
    entries = [[int(key), number] for number in range(2) for key in dataset.image_ids]
    (tmp_path / "index.json").write_text(json.dumps(dict.fromkeys(dataset.image_ids, entries)))
    candidates = read_caption_index(tmp_path / "index.json", dataset, candidates=8)
    result = evaluate_candidates(model, dataset, candidates, "minival")
    assert result.i2t_ranks.tolist() == golden["rerank_i2t_ranks"].tolist()
    assert result.t2i_ranks is None
