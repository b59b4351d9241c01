"""Ranks and metrics are those of VSE++ and VSRN: their code, run on random scores and embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.relevance import own_captions
from engine.evaluation.dual import Encoded, rank_encoded
from engine.evaluation.ensemble import Ensemble
from engine.evaluation.result import Result, format_table
from engine.ranking.metrics import ranks, summarize
from engine.ranking.ranks import retrieval_ranks
from engine.ranking.similarity import inner_products

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = ("r1", "r5", "r10", "medr", "meanr")


def five_captions_each(images: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(images), np.repeat(np.arange(images), 5)


class FiveCaptionsEach:
    """A split as the originals take it for granted."""

    def __init__(self, images: int):
        self.image_ids, self.caption_image = five_captions_each(images)
        self.relevance = own_captions(np.asarray(self.caption_image), images)
        self.num_images, self.num_captions = images, 5 * images


def assert_metrics(summary: dict[str, float], direction: str, expected: np.ndarray) -> None:
    assert [summary[f"{direction}_{column}"] for column in COLUMNS] == expected.tolist()


def test_ranks_of_a_given_score_matrix():
    golden = np.load(GOLDEN / "eval_sim100x500.npz")
    images, captions = five_captions_each(100)
    i2t, t2i = ranks(golden["sim"], images, captions), ranks(golden["sim"].T, captions, images)
    assert i2t.tolist() == golden["i2t_ranks"].tolist()
    assert t2i.tolist() == golden["t2i_ranks"].tolist()
    summary = summarize(i2t, t2i)
    assert_metrics(summary, "i2t", golden["i2t_metrics"])
    assert_metrics(summary, "t2i", golden["t2i_metrics"])


@pytest.mark.parametrize("block_size", [17, 1024])
def test_order_similarity_and_its_ranks(block_size):
    golden = np.load(GOLDEN / "eval_order60.npz")
    scores = np.empty((60, 300), np.float32)

    class Keep:
        def write(self, images, captions, block):
            scores[np.ix_(images, captions)] = block

    embeddings = golden["images"], golden["captions"]
    found = retrieval_ranks(*embeddings, *five_captions_each(60), "order", block_size, scores_out=[Keep()])
    np.testing.assert_allclose(scores, golden["sim"], atol=1e-6)
    assert found[0].tolist() == golden["i2t_ranks"].tolist()
    assert found[1].tolist() == golden["t2i_ranks"].tolist()
    assert_metrics(summarize(*found), "i2t", golden["i2t_metrics"])
    assert_metrics(summarize(*found), "t2i", golden["t2i_metrics"])


@pytest.fixture(scope="module")
def coco5k(shared) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures/eval/coco5k.npz") as golden:
        return dict(golden)


def evaluate_coco(golden: dict[str, np.ndarray], folds: int) -> Result:
    image, text = (
        golden["images"].astype(np.float64),
        golden["captions"].astype(np.float64),
    )  # as the originals
    split = FiveCaptionsEach(5000)
    return rank_encoded(
        Encoded(image, text, np.arange(25000), "cosine", inner_products), split, "test", folds
    )


def test_coco_5k_protocol(coco5k):
    result = evaluate_coco(coco5k, folds=1)
    assert result.i2t_ranks.tolist() == coco5k["full_i2t_ranks"].tolist()
    assert result.t2i_ranks.tolist() == coco5k["full_t2i_ranks"].tolist()
    assert_metrics(result.metrics, "i2t", coco5k["full_i2t"])
    assert_metrics(result.metrics, "t2i", coco5k["full_t2i"])


def test_coco_1k_protocol_of_five_folds_and_its_summary(coco5k, shared):
    """The originals print the sum of the recalls six times too large, or under another column's name."""
    columns = json.loads((shared / "fixtures/eval/columns.json").read_text())["columns of fold_results"]
    result = evaluate_coco(coco5k, folds=5)
    assert result.protocol["fold_images"] == [1000] * 5
    for summary, expected in zip(
        [*result.folds, result.metrics], [*coco5k["fold_results"], coco5k["fold_mean"]], strict=True
    ):
        for direction in ("i2t", "t2i"):
            recalls = [summary[f"{direction}_r{k}"] for k in (1, 5, 10)]
            summary[f"{direction}_mean_recall"] = sum(recalls) / 3
        assert [summary[column] for column in columns] == pytest.approx(expected, rel=1e-14)
    mean = dict(zip(columns, coco5k["fold_mean"], strict=True))
    printed = format_table(result).splitlines()
    for title, direction in (("image to text", "i2t"), ("text to image", "t2i")):
        row = next(line for line in printed if line.startswith(title))
        shown = [float(number) for number in row.removeprefix(title).split()]
        assert shown == pytest.approx([mean[f"{direction}_{column}"] for column in COLUMNS], abs=0.0051)
    recalls = [mean[f"{direction}_r{k}"] for direction in ("i2t", "t2i") for k in (1, 5, 10)]
    assert sum(recalls) == pytest.approx(mean["rsum"]) and mean["rsum"] < 600
    assert any(
        line.startswith(f"rsum {mean['rsum']:.2f}, mean recall {sum(recalls) / 6:.2f} ") for line in printed
    )


def test_the_mean_of_two_models(shared):
    """Sentence embeddings of ones and zeros give the similarities that the original averaged, bit for bit."""
    golden = np.load(shared / "fixtures/eval/sim100x500.npz")
    members = [
        Encoded(golden[name], np.eye(500), np.arange(500), "cosine", inner_products)
        for name in ("sim", "sim2")
    ]
    result = rank_encoded(Ensemble(members).weighted([0.5, 0.5]), FiveCaptionsEach(100), "test")
    for direction, found in (("i2t", result.i2t_ranks), ("t2i", result.t2i_ranks)):
        assert found.tolist() == golden[f"ens_{direction}_ranks"].tolist()
        assert found.tolist() != golden[f"{direction}_ranks"].tolist()
        assert_metrics(result.metrics, direction, golden[f"ens_{direction}_metrics"])
