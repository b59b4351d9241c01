"""A search returns the best of all, as a full sort of every score would."""

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.retrieval_dataset import RetrievalDataset
from serving.search.index import Index
from serving.search.searcher import Searcher


def test_the_index_finds_what_a_full_sort_finds():
    random = np.random.default_rng(0)
    embeddings, queries = random.normal(size=(50, 4)), random.normal(size=(300, 4))
    scores, ids = Index(embeddings, [f"i{n}" for n in range(50)], lambda q, e: q @ e.T).search(queries, 7)
    for row, query in enumerate(queries):
        by_hand = sorted(range(50), key=lambda n: -float(query @ embeddings[n].astype(np.float32)))[:7]
        assert ids[row].tolist() == [f"i{n}" for n in by_hand]
        assert np.all(np.diff(scores[row]) <= 0)


def test_k_is_cut_to_the_size_of_the_index():
    scores, ids = Index(np.eye(3), ["a", "b", "c"], lambda q, e: q @ e.T).search(np.eye(3)[:1], 9)
    assert scores.shape == ids.shape == (1, 3)


def test_as_many_ids_as_embeddings_are_needed():
    with pytest.raises(ValueError, match="3 embeddings and 2 ids"):
        Index(np.eye(3), ["a", "b"], lambda q, e: q @ e.T)


def test_a_sentence_ranks_pictures_by_the_models_own_scores(searcher):
    hits = searcher.images_for_text("a red dog", 6)
    text = searcher.encode_text("a red dog")[0]
    by_hand = sorted(range(6), key=lambda row: -float(searcher.images[row] @ text))
    assert [hit.name for hit in hits] == [f"image_{row}" for row in by_hand]
    assert hits[0].score == pytest.approx(float(searcher.images[by_hand[0]] @ text), abs=1e-6)


def test_a_picture_finds_distinct_captions_and_other_pictures(searcher):
    embedding, name = searcher.embed_image("some/folder/image_2.png")
    assert name == "image_2"
    captions = [hit.name for hit in searcher.captions_for_image(embedding, 12)]
    assert sorted(captions) == sorted(set(searcher.dataset.captions))
    others = [hit.name for hit in searcher.images_for_image(embedding, 6, leave_out=name)]
    assert len(others) == 5 and name not in others


def test_features_of_a_picture_outside_the_split_can_be_searched_with(searcher, tmp_path):
    np.save(tmp_path / "query.npy", searcher.dataset.image_batch(np.array([3]))["features"][0])
    embedding, name = searcher.embed_image(str(tmp_path / "query.npy"))
    assert name is None
    assert np.allclose(embedding[0], searcher.images[3], atol=1e-6)


def test_regions_of_a_picture_outside_the_split_reach_a_model_that_takes_regions(searcher, tmp_path):
    regions = np.random.default_rng(1).normal(size=(6, 3, 8)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", regions)
    split = CaptionSplit("test", searcher.dataset.image_ids, np.arange(6), ["a dog"] * 6, np.arange(6))
    features = NpyFeatures(tmp_path / "test_ims.npy")
    dataset = RetrievalDataset(features, split, searcher.dataset.vocabulary, pool_regions=False)
    seen = []

    class Watching(paddle.nn.Layer):
        def encode_image(self, batch):
            seen.append({name: tensor.numpy() for name, tensor in batch.items()})
            return batch["regions"].sum(axis=1)

    searcher = Searcher(Watching(), dataset)
    np.save(tmp_path / "query.npy", regions[2])
    embedding, _ = searcher.embed_image(str(tmp_path / "query.npy"))
    assert np.array_equal(seen[-1]["regions"], regions[2:3]) and seen[-1]["num_regions"].tolist() == [3]
    assert np.allclose(embedding[0], searcher.images[2], atol=1e-6)


def test_captions_of_the_picture_are_marked_however_they_are_written(searcher):
    searcher.dataset.captions[1] = "A  Dog"  # the same sentence as the first caption of image 3 has
    searcher.dataset.captions[7] = "a dog"
    embedding, name = searcher.embed_image("image_3")
    right = [hit.name for hit in searcher.captions_for_image(embedding, 12, name) if hit.right]
    assert sorted(right) == ["A  Dog", "a red dog"]
    assert not any(hit.right for hit in searcher.captions_for_image(embedding, 12))


def test_unknown_words_are_told(searcher):
    assert searcher.unknown_words("A purple dog sings purple") == ["purple", "sings"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda searcher: searcher.encode_text("   "), "expected a sentence"),
        (lambda searcher: searcher.encode_text("zebra quagga zebra"), "no word of 'zebra quagga zebra'"),
        (
            lambda searcher: searcher.embed_image("image_9.jpg"),
            "image_9.jpg.*of the test split .did you mean image_",
        ),
        (lambda searcher: searcher.embed_image("nowhere.npy"), "nowhere.npy cannot be read: No such file"),
    ],
    ids=["empty", "no known word", "no such image", "no such features"],
)
def test_a_query_that_cannot_work_says_why(searcher, action, expected):
    with pytest.raises(UserError, match=expected):
        action(searcher)


UNFIT = {
    "another width": (np.ones(5), r"expected numbers of shape \[8\] or \[R,8\].*got float64 of shape \[5\]"),
    "a single number": (np.array(3.0), r"got float64 of shape \[\]"),
    "no rows": (np.ones((0, 8)), r"got float64 of shape \[0, 8\]"),
    "text": (np.array(["a"] * 8), r"got <U1 of shape \[8\]"),
    "complex": (np.ones(8, complex), "got complex128"),
    "not a number": (np.full((2, 8), [[1.0], [np.nan]]), "row 2 holds NaN or infinity"),
    "beyond float32": (np.full(8, 1e300), "row 1 holds NaN or infinity"),
    "objects": (np.array([{}] * 8), "is not a .npy file .*Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_features_that_do_not_fit_are_refused(searcher, tmp_path, fault):
    features, expected = UNFIT[fault]
    np.save(tmp_path / "query.npy", features)
    with pytest.raises(UserError, match=f"query.npy.*{expected}"):
        searcher.embed_image(str(tmp_path / "query.npy"))


@pytest.mark.parametrize("content", [b"", b"features", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x76\x00{"])
def test_a_file_that_holds_no_array_is_refused(searcher, tmp_path, content):
    (tmp_path / "query.npy").write_bytes(content)
    with pytest.raises(UserError, match="query.npy is not a .npy file"):
        searcher.embed_image(str(tmp_path / "query.npy"))
