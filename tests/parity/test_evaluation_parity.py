"""Ranks and metrics are those of VSE++ and VSRN: their code, run on random scores and embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.metrics import ranks, summarize
from engine.ranking import retrieval_ranks

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = ("r1", "r5", "r10", "medr", "meanr")


def five_captions_each(images: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(images), np.repeat(np.arange(images), 5)


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
    found = retrieval_ranks(*embeddings, *five_captions_each(60), "order", block_size, scores_out=Keep())
    np.testing.assert_allclose(scores, golden["sim"], atol=1e-6)
    assert found[0].tolist() == golden["i2t_ranks"].tolist()
    assert found[1].tolist() == golden["t2i_ranks"].tolist()
    assert_metrics(summarize(*found), "i2t", golden["i2t_metrics"])
    assert_metrics(summarize(*found), "t2i", golden["t2i_metrics"])


def test_coco_5k_protocol(shared):
    golden = np.load(shared / "fixtures/eval/coco5k.npz")
    embeddings = (
        golden["images"].astype(np.float64),
        golden["captions"].astype(np.float64),
    )  # as the originals
    i2t, t2i = retrieval_ranks(*embeddings, *five_captions_each(5000))
    assert i2t.tolist() == golden["full_i2t_ranks"].tolist()
    assert t2i.tolist() == golden["full_t2i_ranks"].tolist()
    assert_metrics(summarize(i2t, t2i), "i2t", golden["full_i2t"])
    assert_metrics(summarize(i2t, t2i), "t2i", golden["full_t2i"])


def test_coco_1k_protocol_of_five_folds(shared):
    golden = np.load(shared / "fixtures/eval/coco5k.npz")
    columns = json.loads((shared / "fixtures/eval/columns.json").read_text())["columns of fold_results"]
    embeddings = golden["images"].astype(np.float64), golden["captions"].astype(np.float64)
    image_fold = np.repeat(np.arange(5), 1000)
    caption_fold = np.repeat(image_fold, 5)
    ids = five_captions_each(5000)
    i2t, t2i = retrieval_ranks(*embeddings, *ids, image_fold=image_fold, caption_fold=caption_fold)
    for fold, expected in enumerate(golden["fold_results"]):
        summary = summarize(i2t[image_fold == fold], t2i[caption_fold == fold])
        for direction in ("i2t", "t2i"):
            recalls = [summary[f"{direction}_r{k}"] for k in (1, 5, 10)]
            summary[f"{direction}_mean_recall"] = sum(recalls) / 3
        assert [summary[column] for column in columns] == pytest.approx(expected, rel=1e-14)
