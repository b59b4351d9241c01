"""An ensemble ranks the weighted mean of its members' scores, and its weights are searched on dev."""

import weakref
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from config.errors import UserError
from config.load import load_config
from datasets.relevance import own_captions
from engine.evaluation.dual import Encoded, rank_encoded
from engine.evaluation.ensemble import Ensemble, check_same_pairs, normalized, tune_weights
from engine.ranking.metrics import ranks
from engine.ranking.similarity import similarity_of
from engine.tasks import dual, ensemble
from engine.tasks.task import EvaluationOptions, Trained
from tests.closeness import SINGLE, assert_close, largest

IMAGES = 17
CAPTION_IMAGE = np.random.default_rng(0).permutation(np.repeat(np.arange(IMAGES), np.arange(IMAGES) % 4 + 1))


class Split:
    """The images and captions of all members, and the scores of an evaluation of them."""

    image_ids = [f"{number}.jpg" for number in range(IMAGES)]
    caption_image, num_images, num_captions = CAPTION_IMAGE, IMAGES, len(CAPTION_IMAGE)
    relevance = own_captions(CAPTION_IMAGE, IMAGES)

    def __init__(self):
        self.scores = np.full((self.num_images, self.num_captions), np.nan)

    def write(self, images, captions, scores):
        self.scores[np.ix_(images, captions)] = scores

    def save(self, image_ids, caption_image_ids):
        assert caption_image_ids == [image_ids[image] for image in CAPTION_IMAGE]


def member(random, measure="cosine", width=5, sentences=None, whole_numbers=False):
    """Return embeddings of a model to whose vocabulary captions are `sentences` different ones."""
    sentences = sentences or len(CAPTION_IMAGE)
    sentence = random.permutation(np.arange(len(CAPTION_IMAGE)) % sentences)
    shapes = (IMAGES, width), (sentences, width)
    if whole_numbers:  # few of them, so that many scores are equal
        image, text = (random.integers(-1, 2, shape).astype(np.float32) for shape in shapes)
    else:
        image, text = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Encoded(image, text, sentence, measure, similarity_of(measure))


def scores_by_loops(members, weights):
    """Return the mean [images, captions] of the members' scores in float64, one pair at a time."""
    scores = np.zeros((IMAGES, len(CAPTION_IMAGE)))
    for one, weight in zip(members, weights, strict=True):
        for row, image in enumerate(one.image.astype(np.float64)):
            for column, sentence in enumerate(one.sentence):
                text = one.text[sentence].astype(np.float64)
                if one.measure == "cosine":
                    score = sum(a * b for a, b in zip(image, text, strict=True))
                else:
                    score = -np.sqrt(sum(max(0, t - i) ** 2 for i, t in zip(image, text, strict=True)))
                scores[row, column] += weight * score
    return scores


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("block_size", [3, 100])
def test_ranks_are_those_of_the_mean_of_the_whole_matrices(tie_rule, block_size):
    random = np.random.default_rng(1)
    members = [member(random, width=width, sentences=9, whole_numbers=True) for width in (3, 5, 2)]
    weights = [0.5, 0.25, 0.25]  # with whole numbers, every sum is exact
    scores = scores_by_loops(members, weights)
    assert len(np.unique(scores)) < 40, "ties, of which the rule decides"
    joint = Ensemble(members).weighted(weights)
    found = rank_encoded(joint, Split(), "test", tie_rule=tie_rule, block_size=block_size)
    assert found.i2t_ranks.tolist() == ranks(scores, np.arange(IMAGES), CAPTION_IMAGE, tie_rule).tolist()
    assert found.t2i_ranks.tolist() == ranks(scores.T, CAPTION_IMAGE, np.arange(IMAGES), tie_rule).tolist()


@pytest.mark.parametrize("measures", [["cosine", "cosine"], ["order", "cosine", "order"], ["order", "order"]])
def test_scores_are_the_weighted_mean_of_every_members_measure(measures):
    random = np.random.default_rng(2)
    members = [member(random, measure, width) for measure, width in zip(measures, (4, 7, 3), strict=False)]
    weights = normalized([3, 1, 2][: len(members)])
    split = Split()
    found = rank_encoded(Ensemble(members).weighted(weights), split, "test", block_size=6, scores=split)
    expected = scores_by_loops(members, weights)
    longest = max(largest(np.linalg.norm(x, axis=1) for x in (one.image, one.text)) for one in members)
    assert_close(split.scores, expected, 7 + 2 * len(members), longest**2, unit=SINGLE)
    assert found.i2t_ranks.tolist() == ranks(split.scores, np.arange(IMAGES), CAPTION_IMAGE).tolist()
    assert found.protocol["measure"] == " and ".join(dict.fromkeys(measures))


def test_captions_are_one_sentence_where_they_are_one_to_every_member():
    random = np.random.default_rng(3)
    coarse, fine = member(random, sentences=4), member(random, sentences=6)
    joint = Ensemble([coarse, fine]).weighted([0.5, 0.5])
    pairs = list(zip(coarse.sentence.tolist(), fine.sentence.tolist(), strict=True))
    assert len(joint.text) == len(set(pairs)) > 6
    for caption, (of_coarse, of_fine) in enumerate(pairs):
        assert (
            joint.text[joint.sentence[caption]].tolist()
            == np.concatenate([coarse.text[of_coarse], fine.text[of_fine]]).tolist()
        )
    first_seen = np.unique(joint.sentence, return_index=True)[1]
    assert (np.diff(first_seen) > 0).all(), "in the order of the captions, which ranking need not sort again"


def test_one_member_with_all_the_weight_decides_alone():
    random = np.random.default_rng(4)
    strong, weak = member(random), member(random, "order")
    alone = rank_encoded(strong, Split(), "test")
    together = rank_encoded(Ensemble([weak, strong]).weighted(normalized([1e-12, 1])), Split(), "test")
    assert together.metrics == alone.metrics


def test_weights_have_a_sum_of_one_however_large_they_are():
    assert normalized([2, 6]) == [0.25, 0.75]
    assert normalized([1e308, 1e308, 1e308, 1e308]) == [0.25] * 4


@pytest.mark.parametrize("target", [[0.5, 0.5], [0.9, 0.1], [0.2, 0.3, 0.5], [0.4, 0.3, 0.2, 0.1]])
def test_the_search_comes_close_to_the_best_weights(target):
    tried = []

    def score(weights):
        assert sum(weights) == pytest.approx(1) and min(weights) > 0
        tried.append(tuple(weights))
        return -sum((weight - best) ** 2 for weight, best in zip(weights, target, strict=True))

    tuning = tune_weights(score, len(target))
    assert tuning.weights == pytest.approx(target, abs=0.05)
    assert tuning.equal == score([1 / len(target)] * len(target)) <= tuning.tuned == score(tuning.weights)
    assert tuning.evaluations == len(tried) - 2 == len(set(tried)) < 40 * len(target)


def test_weights_stay_equal_where_no_others_score_higher():
    tuning = tune_weights(lambda weights: 10.0 + 1e-12 * weights[0], 3)  # a difference that is rounding
    assert tuning.weights == [1 / 3] * 3
    assert (tuning.equal, tuning.evaluations) == (tuning.tuned, 1 + 4 * 6)


def pairs(**changes) -> SimpleNamespace:
    split = {
        "name": "test",
        "image_ids": ["a.jpg", "b.jpg"],
        "captions": ["a dog", "two dogs", "a cat"],
        "caption_image": [0, 0, 1],
    }
    split |= changes
    return SimpleNamespace(**split, num_images=len(split["image_ids"]), num_captions=len(split["captions"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"captions": ["a dog"], "caption_image": [0]},
            "out/b/best: 2 images and 1 captions in test, 2 images and 3 captions for out/a/best; .* DATASET",
        ),
        ({"image_ids": ["a.jpg", "c.jpg"]}, "image 2 of test is 'c.jpg', for out/a/best it is 'b.jpg'; "),
        ({"captions": ["a dog", "dogs", "a cat"]}, "caption 2 of test is 'dogs', .* it is 'two dogs'; "),
        ({"caption_image": [0, 1, 1]}, "the image of caption 2 of test is 'b.jpg', .* it is 'a.jpg'; "),
    ],
)
def test_members_on_other_images_or_captions_are_told_from_the_first(changes, message):
    check_same_pairs(pairs(), "out/a/best", pairs(), "out/b/best")
    with pytest.raises(UserError, match=message):
        check_same_pairs(pairs(), "out/a/best", pairs(**changes), "out/b/best")


class Numbers(paddle.nn.Layer):
    """Encode images and captions by their place alone."""

    measure = "cosine"

    def encode_image(self, batch):
        return paddle.nn.functional.one_hot(batch["row"], IMAGES)

    def encode_text(self, batch):
        return paddle.nn.functional.one_hot(batch["row"], IMAGES)


class PlaceSplit(Split):
    name = "test"
    caption_ids = None
    captions = [f"caption {number}" for number in range(len(CAPTION_IMAGE))]
    lengths = sentence_ids = np.arange(len(CAPTION_IMAGE))

    def image_batch(self, images):
        return {"row": images}

    def text_batch(self, captions):
        row = CAPTION_IMAGE[captions]
        return {"row": row, "token_ids": captions[:, None], "text_len": np.ones_like(captions)}

    def unknown_share(self):
        return 0.0


def test_a_model_is_let_go_before_the_next_is_loaded(monkeypatch, tmp_path):
    loaded = []

    def load(cfg):
        assert not any(model() for model in loaded)
        model = Numbers()
        loaded.append(weakref.ref(model))
        folder = cfg.EVAL.CHECKPOINT_DIR
        return Trained(model, None, {"folder": folder, "sha256": "ab", "model": "vsepp", "step": 7})

    monkeypatch.setattr(ensemble, "load_trained", load)
    monkeypatch.setattr(ensemble, "resolve_checkpoint", lambda folder: folder)
    monkeypatch.setattr(ensemble, "load_words", lambda cfg, folder: None)
    monkeypatch.setattr(ensemble, "build_dataset", lambda *_, training: PlaceSplit())
    cfgs = [load_config(None, [f"EVAL.CHECKPOINT_DIR={name}", "MISC.SEED=1"]) for name in "abc"]
    found = dual.measure(cfgs, EvaluationOptions(tmp_path, weights=[1, 1, 2]))
    assert found.result.metrics["rsum"] == 600 and len(loaded) == 3
    assert [one["weight"] for one in found.checkpoint["members"]] == [0.25, 0.25, 0.5]
    assert found.checkpoint["members"][2] == {
        "weight": 0.5,
        "folder": "c",
        "sha256": "ab",
        "model": "vsepp",
        "step": 7,
        "config": {"EVAL.CHECKPOINT_DIR": "c"},
    }
