"""Relevance is what the score loses, recomputed by encoding every occluded image and caption by itself."""

import numpy as np
import paddle
import pytest

from engine.evaluation.occlusion import leave_one_out, measure_relevance, relevance_from_scores
from models.dual_encoder import DualEncoder
from models.encoders import GRUTextEncoder, ImageEncoder


class SumEncoder(paddle.nn.Layer):
    """A bilinear model: an image is the sum of its regions, a caption the sum of its tokens' vectors."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        self.vectors = paddle.to_tensor(vectors)

    def encode_image(self, batch):
        assert (batch["num_regions"] == batch["regions"].shape[1]).all()
        return batch["regions"].sum(axis=1)

    def encode_text(self, batch):
        assert (batch["text_len"] == batch["token_ids"].shape[1]).all()
        return paddle.nn.functional.embedding(batch["token_ids"], self.vectors).sum(axis=1)

    def similarity(self, image, text):
        return image @ text.T


def arrays(seed: int, regions: int = 5, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=(count, width)).astype(np.float32) for count in (regions, 9))


def dual_encoder(measure: str) -> DualEncoder:
    paddle.seed(1)
    return DualEncoder(
        ImageEncoder(6, 8, normalize=True, absolute=measure == "order", dropout=0.5),
        GRUTextEncoder(9, 4, 8, absolute=measure == "order"),
        measure,
    )


def test_a_bilinear_score_is_the_sum_of_what_region_and_word_bear_together():
    regions, vectors = arrays(0)
    ids = [1, 5, 6, 5, 2]
    found = measure_relevance(SumEncoder(vectors), regions, ids, [1, 2, 3])
    for r, region in enumerate(regions):
        for w, token in enumerate([5, 6, 5]):
            assert found.pair[r, w] == pytest.approx(float(region @ vectors[token]), abs=1e-5)
        assert found.region[r] == pytest.approx(float(region @ vectors[ids].sum(axis=0)), abs=1e-5)
    assert found.score == pytest.approx(float(regions.sum(axis=0) @ vectors[ids].sum(axis=0)), abs=1e-4)
    everything = measure_relevance(SumEncoder(vectors), regions, ids, range(5))
    assert everything.pair.sum() == pytest.approx(found.score, abs=1e-4)


@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_occluding_is_encoding_what_remains(measure):
    """By plain loops: each image and caption encoded alone, in training mode before and after."""
    regions, _ = arrays(1)
    ids, words = [1, 4, 7, 8, 2], [1, 2, 3]
    model = dual_encoder(measure)

    def score(left_out_region: int | None, left_out_word: int | None) -> float:
        kept = np.array([row for r, row in enumerate(regions) if r != left_out_region])
        caption = [token for place, token in enumerate(ids) if place != left_out_word]
        image = model.encode_image(
            {"regions": paddle.to_tensor(kept[None]), "num_regions": paddle.to_tensor([len(kept)])}
        )
        text = model.encode_text(
            {"token_ids": paddle.to_tensor([caption]), "text_len": paddle.to_tensor([len(caption)])}
        )
        return model.similarity(image, text).item()

    model.train()
    found = measure_relevance(model, regions, ids, words)
    assert model.training, "the mode is as it was"
    model.eval()
    whole = score(None, None)
    assert found.score == pytest.approx(whole, abs=1e-6)
    for r in range(len(regions)):
        assert found.region[r] == pytest.approx(whole - score(r, None), abs=1e-6)
        for w, place in enumerate(words):
            expected = whole - score(r, None) - score(None, place) + score(r, place)
            assert found.pair[r, w] == pytest.approx(expected, abs=1e-6)
    assert found.word == pytest.approx([whole - score(None, place) for place in words], abs=1e-6)


def test_scores_that_add_up_have_no_part_that_needs_both():
    scores = np.array([[6.0], [4.0], [5.0]]) + np.array([[1.0, 0.0, 3.0]])
    found = relevance_from_scores(scores)
    assert (found.score, found.region.tolist(), found.word.tolist()) == (7, [2, 1], [1, -2])
    assert not found.pair.any()


def test_a_caption_of_one_word_without_it_is_its_markers():
    regions, vectors = arrays(2, regions=2)
    found = measure_relevance(SumEncoder(vectors), regions, [1, 5, 2], [1])
    assert found.pair.shape == (2, 1)
    assert found.word[0] == pytest.approx(float(regions.sum(axis=0) @ vectors[5]), abs=1e-5)


def test_leaving_one_out_keeps_the_order():
    assert leave_one_out(3).tolist() == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize(("regions", "ids"), [(1, [1, 5, 2]), (3, [5])])
def test_something_must_remain(regions, ids):
    values, vectors = arrays(3, regions=regions)
    with pytest.raises(ValueError, match="at least two"):
        measure_relevance(SumEncoder(vectors), values, ids, [0])
