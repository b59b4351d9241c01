"""Hard negatives: those of a batch by the model itself, and those that a dual encoder takes for right."""

import numpy as np
import pytest

from datasets.pairs import Pairs
from engine.evaluation.dual import Encoded
from engine.ranking.similarity import inner_products
from engine.tasks.negatives import in_batch, short_lists
from tests.pair_data import PlainScorer, dense_scores, pair_dataset


@pytest.fixture
def dataset(tmp_path):
    return pair_dataset(tmp_path)


def a_batch(dataset) -> Pairs:
    """Return twelve captions with their images, then random negatives of these."""
    captions = np.random.default_rng(3).permutation(dataset.num_captions)[:12]
    images = dataset.caption_image[captions]
    other = (images + 1) % dataset.num_images
    return Pairs(np.concatenate([images, other]), np.tile(captions, 2))


def test_a_batch_gets_what_the_model_scores_highest_among_its_wrong_pairs(dataset):
    batch, scores, model = a_batch(dataset), dense_scores(dataset), PlainScorer()
    model.train()
    kinds = set()
    for seed in range(5):
        hard = in_batch(model, dataset, batch, 1.0, np.random.default_rng(seed), batch_tokens=200)
        assert model.training, "and goes on training"
        np.testing.assert_array_equal(hard.images[:12], batch.images[:12])
        np.testing.assert_array_equal(hard.captions[:12], batch.captions[:12])
        for image, caption, hard_image, hard_caption in zip(
            batch.images[:12], batch.captions[:12], hard.images[12:], hard.captions[12:], strict=True
        ):
            images = {i for i in batch.images[:12] if not dataset.is_own_sentence(i, caption)}
            captions = {c for c in batch.captions[:12] if not dataset.is_own_sentence(image, c)}
            if hard_image == image:
                assert scores[image, hard_caption] == max(scores[image, c] for c in captions)
            else:
                assert hard_caption == caption
                assert scores[hard_image, caption] == max(scores[i, caption] for i in images)
            kinds.add(hard_image == image)
    assert kinds == {True, False}
    pairs = len(set(batch.images[:12])) * len(set(batch.captions[:12]))
    assert model.pairs == 5 * pairs, "each image once with each caption"


def test_the_share_is_how_many_are_hard(dataset):
    batch = a_batch(dataset)
    random = np.random.default_rng(0)
    changed = []
    for _ in range(60):
        hard = in_batch(PlainScorer(), dataset, batch, 0.25, random, batch_tokens=10_000)
        changed.append((hard.images != batch.images) | (hard.captions != batch.captions))
    assert not np.any(np.array(changed)[:, :12])
    assert 0.15 < np.mean(np.array(changed)[:, 12:]) < 0.3
    none = in_batch(PlainScorer(), dataset, batch, 0.0, random, batch_tokens=10_000)
    np.testing.assert_array_equal(none.images, batch.images)
    np.testing.assert_array_equal(none.captions, batch.captions)


def test_short_lists_hold_the_highest_scores(dataset, monkeypatch):
    for name, size in (("TILE_IMAGES", 5), ("TILE_CAPTIONS", 7)):
        monkeypatch.setattr(f"engine.tasks.negatives.{name}", size)
    random = np.random.default_rng(1)
    sentence = dataset.sentence_ids
    image = random.standard_normal((dataset.num_images, 4)).astype(np.float32)
    text = random.standard_normal((sentence.max() + 1, 4)).astype(np.float32)
    lists = short_lists(Encoded(image, text, sentence, "cosine", inner_products), sentence, top=3)
    scores = image @ text[sentence].T
    distinct = scores[:, dataset.distinct_captions]  # what several captions say is listed once
    for row in range(dataset.num_images):
        found = scores[row, lists.captions_of_image[row]]
        np.testing.assert_allclose(found, np.sort(distinct[row])[:-4:-1], rtol=1e-6)
    for caption in range(dataset.num_captions):
        found = scores[lists.images_of_caption[caption], caption]
        np.testing.assert_allclose(found, np.sort(scores[:, caption])[:-4:-1], rtol=1e-6)
