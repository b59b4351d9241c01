"""A search returns the best of all, as a full sort of every score would."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.retrieval_dataset import RetrievalDataset
from serving.search.index import Index
from serving.search.searcher import image_row
from serving.splits.split_searcher import SplitSearcher

ROOT = Path(__file__).resolve().parents[3]


def test_the_index_finds_what_a_full_sort_finds():
    random = np.random.default_rng(0)
    embeddings, queries = random.normal(size=(50, 4)), random.normal(size=(300, 4))
    scores, ids = Index(embeddings, [f"i{n}" for n in range(50)], lambda q, e: q @ e.T).search(queries, 7)
    for row, query in enumerate(queries):
        by_hand = sorted(range(50), key=lambda n: -float(query @ embeddings[n].astype(np.float32)))[:7]
        assert ids[row].tolist() == [f"i{n}" for n in by_hand]
        assert np.all(np.diff(scores[row]) <= 0)


def test_an_image_is_named_by_its_id_or_by_its_file_where_no_other_is_called_so():
    ids = ["holidays/lake.jpg", "work/desk.jpg", "home/desk.jpg", "lake", "café.jpg"]
    for name, row in {
        "holidays/lake.jpg": 0,
        "lake.jpg": 3,
        "work/desk.jpg": 1,
        "lake": 3,
        "any/where/café.jpg": 4,
    }.items():
        assert image_row(ids, name, "photos") == row, name
    assert image_row(ids[:3], "lake.jpg", "photos") == 0
    with pytest.raises(UserError, match="'desk.jpg' is not an image of photos .did you mean"):
        image_row(ids, "desk.jpg", "photos")


def test_k_is_cut_to_the_size_of_the_index():
    scores, ids = Index(np.eye(3), ["a", "b", "c"], lambda q, e: q @ e.T).search(np.eye(3)[:1], 9)
    assert scores.shape == ids.shape == (1, 3)


def test_as_many_ids_as_embeddings_are_needed():
    with pytest.raises(ValueError, match="3 embeddings and 2 ids"):
        Index(np.eye(3), ["a", "b"], lambda q, e: q @ e.T)


def test_a_sentence_ranks_pictures_by_the_models_own_scores(searcher):
    hits = searcher.images_for_text("a red dog", 6)
    text = searcher.encoder.encode_text(["a red dog"])[0]
    by_hand = sorted(range(6), key=lambda row: -float(searcher.images[row] @ text))
    assert [hit.name for hit in hits] == [f"image_{row}" for row in by_hand]
    assert hits[0].score == pytest.approx(float(searcher.images[by_hand[0]] @ text), abs=1e-6)


def test_a_picture_finds_distinct_captions_and_other_pictures(searcher):
    embedding, name = searcher.embedding_of("some/folder/image_2.png")
    assert name == "image_2"
    captions = [hit.name for hit in searcher.captions_for_image(embedding, 12)]
    assert sorted(captions) == sorted(set(searcher.dataset.captions))
    others = [hit.name for hit in searcher.images_for_image(embedding, 6, leave_out=name)]
    assert len(others) == 5 and name not in others


def test_features_of_a_picture_outside_the_split_can_be_searched_with(searcher):
    features = searcher.dataset.image_batch(np.array([3, 1]))["features"]
    embeddings = searcher.encoder.encode_images(list(features))
    assert np.allclose(embeddings, searcher.images[[3, 1]], atol=1e-6)
    pooled = searcher.encoder.encode_images([np.stack([features[0] - 1, features[0] + 1])])
    assert np.allclose(pooled[0], searcher.images[3], atol=1e-5), "regions are averaged for this model"


def test_regions_of_a_picture_outside_the_split_reach_a_model_that_takes_regions(searcher, tmp_path):
    regions = np.random.default_rng(1).normal(size=(6, 3, 8)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", regions)
    split = CaptionSplit("test", searcher.dataset.image_ids, np.arange(6), ["a dog"] * 6, np.arange(6))
    features = NpyFeatures(tmp_path / "test_ims.npy")
    dataset = RetrievalDataset(features, split, searcher.dataset.vocabulary, pool_regions=False)
    seen = []

    class Watching(paddle.nn.Layer):
        measure = "cosine"

        def encode_image(self, batch):
            seen.append({name: tensor.numpy() for name, tensor in batch.items()})
            return batch["regions"].sum(axis=1)

    searcher = SplitSearcher(Watching(), dataset)
    embedding = searcher.encoder.encode_images([regions[2]])
    assert np.array_equal(seen[-1]["regions"], regions[2:3]) and seen[-1]["num_regions"].tolist() == [3]
    assert np.allclose(embedding[0], searcher.images[2], atol=1e-6)


def test_a_gallery_needs_neither_paddle_nor_captions():
    code = """
import sys
import numpy as np
from serving.search.searcher import Searcher

class Letters:
    def encode_text(self, texts):
        return np.array([[text.count("a"), text.count("b")] for text in texts], np.float32)
    def similarity(self, images, texts):
        return images @ texts.T

searcher = Searcher(Letters(), np.array([[1, 0], [0, 1], [2, 0]], np.float32), ["one a", "one b", "two a"])
found = searcher.images_for_texts(["abb", "a"], 2)
assert [[hit.name for hit in hits] for hits in found] == [["one b", "two a"], ["two a", "one a"]], found
assert searcher.captions_for_image(searcher.images[:1], 3) == []
assert [hit.name for hit in searcher.images_for_image(searcher.images[:1], 9, "one a")] == ["two a", "one b"]
assert "paddle" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_equal_scores_keep_the_order_of_the_index():
    random = np.random.default_rng(3)
    scores = random.integers(0, 3, (20, 40)).astype(np.float32)
    found, ids = Index(np.zeros((40, 1)), list(range(40)), lambda q, e: scores[: len(q)]).search(scores, 7)
    for row in range(20):
        by_hand = sorted(range(40), key=lambda place: (-scores[row][place], place))[:7]
        assert ids[row].tolist() == by_hand and found[row].tolist() == scores[row][by_hand].tolist()


def test_captions_of_the_picture_are_marked_however_they_are_written(searcher):
    searcher.dataset.captions[1] = "A  Dog"  # the same sentence as the first caption of image 3 has
    searcher.dataset.captions[7] = "a dog"
    embedding, name = searcher.embedding_of("image_3")
    right = [hit.name for hit in searcher.captions_for_image(embedding, 12, name) if hit.right]
    assert sorted(right) == ["A  Dog", "a red dog"]
    assert not any(hit.right for hit in searcher.captions_for_image(embedding, 12))


def test_unknown_words_are_told(searcher):
    assert searcher.encoder.unknown_words("A purple dog sings purple") == ["purple", "sings"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda searcher: searcher.encoder.encode_text(["a dog", "   "]), "expected a sentence, got '   '"),
        (
            lambda searcher: searcher.images_for_text("zebra quagga zebra", 1),
            "no word of 'zebra quagga zebra'",
        ),
        (
            lambda searcher: searcher.embedding_of("image_9.jpg"),
            "image_9.jpg.*of the test split .did you mean image_",
        ),
    ],
    ids=["empty", "no known word", "no such image"],
)
def test_a_query_that_cannot_work_says_why_and_names_no_option(searcher, action, expected):
    with pytest.raises(UserError, match=expected) as refused:
        action(searcher)
    assert "--" not in str(refused.value)
