"""Ranks from embeddings: the numbers counted are the numbers written, and ties are exact."""

import numpy as np
import pytest

from engine.parallel.processes import ValidationStoppedError
from engine.ranking.metrics import ranks
from engine.ranking.ranks import retrieval_ranks
from engine.ranking.similarity import inner_products, inner_products_on_one_thread, order_similarity
from tests.closeness import SINGLE, assert_close, largest
from tests.thread_job import ThreadJob


class Recorder:
    """Take scores into one matrix, each exactly once."""

    def __init__(self, images: int, captions: int, dtype=np.float32):
        self.scores = np.full((images, captions), np.nan, dtype)

    def write(self, images, captions, scores):
        assert np.isnan(self.scores[np.ix_(images, captions)]).all()
        self.scores[np.ix_(images, captions)] = scores


def order_by_loops(images, texts):
    return [
        [-np.sqrt(sum(max(0, t - i) ** 2 for i, t in zip(im, tx, strict=True))) for tx in texts]
        for im in images
    ]


def random_case(random, images=23, width=7, label_type=False):
    """Return embeddings and ids with repeated vectors, repeated sentences and uneven captions per image."""
    image_ids = random.integers(0, 6, images) if label_type else random.permutation(images)
    captions_of = random.integers(1, 5, images)
    caption_ids = random.permutation(np.repeat(image_ids, captions_of))
    text_emb = random.standard_normal((len(caption_ids), width)).astype(np.float32)
    image_emb = random.standard_normal((images, width)).astype(np.float32)
    image_emb[random.integers(0, images, images // 3)] = image_emb[0]
    text_emb[random.integers(0, len(text_emb), len(text_emb) // 4)] = text_emb[1]
    sentence = random.integers(0, len(text_emb), len(caption_ids))
    return image_emb, text_emb, image_ids, caption_ids, sentence


@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("label_type", [False, True])
def test_ranks_are_those_of_the_scores_that_are_written(measure, tie_rule, label_type):
    random = np.random.default_rng(5)
    for block_size in (3, 5, 100):
        image_emb, text_emb, image_ids, caption_ids, sentence = random_case(random, label_type=label_type)
        recorder = Recorder(len(image_ids), len(caption_ids))
        arguments = (image_emb, text_emb, image_ids, caption_ids, measure, block_size, tie_rule, sentence)
        i2t, t2i = retrieval_ranks(*arguments, scores_out=[recorder])
        assert i2t.tolist() == ranks(recorder.scores, image_ids, caption_ids, tie_rule).tolist()
        assert t2i.tolist() == ranks(recorder.scores.T, caption_ids, image_ids, tie_rule).tolist()
        unwritten = retrieval_ranks(*arguments)
        assert i2t.tolist() == unwritten[0].tolist() and t2i.tolist() == unwritten[1].tolist()


@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_scores_are_the_measure_by_plain_loops(measure):
    image_emb, text_emb, image_ids, caption_ids, sentence = random_case(np.random.default_rng(1))
    recorder = Recorder(len(image_ids), len(caption_ids))
    retrieval_ranks(
        image_emb, text_emb, image_ids, caption_ids, measure, 5, "against", sentence, scores_out=[recorder]
    )
    texts = text_emb[sentence].astype(np.float64)
    expected = (
        image_emb @ texts.T if measure == "cosine" else order_by_loops(image_emb.astype(np.float64), texts)
    )
    width = image_emb.shape[1]
    # Differences are rounded before they are squared: an order score is off by its embeddings' size.
    size = np.abs(image_emb) @ np.abs(texts.T) if measure == "cosine" else largest([image_emb, *expected])
    expected = np.asarray(expected)
    assert_close(recorder.scores, expected, width + 4, size, unit=SINGLE)


def test_pairs_compete_within_their_fold_alone():
    random = np.random.default_rng(2)
    image_emb, text_emb, image_ids, caption_ids, sentence = random_case(random, images=20)
    image_fold = np.repeat([0, 1, 2], [7, 7, 6])
    fold_of = dict(zip(image_ids, image_fold, strict=True))
    caption_fold = np.array([fold_of[name] for name in caption_ids])
    recorder = Recorder(len(image_ids), len(caption_ids))
    arguments = {
        "block_size": 4,
        "caption_sentence": sentence,
        "image_fold": image_fold,
        "caption_fold": caption_fold,
    }
    i2t, t2i = retrieval_ranks(
        image_emb, text_emb, image_ids, caption_ids, scores_out=[recorder], **arguments
    )
    assert not np.isnan(recorder.scores).any()  # pairs across folds are written all the same
    for fold in range(3):
        rows, columns = np.flatnonzero(image_fold == fold), np.flatnonzero(caption_fold == fold)
        part = recorder.scores[np.ix_(rows, columns)]
        assert i2t[rows].tolist() == ranks(part, image_ids[rows], caption_ids[columns]).tolist()
        assert t2i[columns].tolist() == ranks(part.T, caption_ids[columns], image_ids[rows]).tolist()
    unwritten = retrieval_ranks(image_emb, text_emb, image_ids, caption_ids, **arguments)
    assert i2t.tolist() == unwritten[0].tolist() and t2i.tolist() == unwritten[1].tolist()


def test_equal_vectors_tie_wherever_they_stand():
    # A width and sizes at which a matrix product rounds the rows at its edges differently.
    random = np.random.default_rng(0)
    image_emb, text_emb = (
        random.standard_normal((1, 515)).astype(np.float32).repeat(n, axis=0) for n in (131, 277)
    )
    image_ids, caption_ids = np.arange(131), np.arange(277) % 131
    for block_size in (7, 64, 1024):
        i2t, t2i = retrieval_ranks(image_emb, text_emb, image_ids, caption_ids, block_size=block_size)
        assert (t2i == 130).all()
        assert i2t.tolist() == [277 - int((caption_ids == image).sum()) for image in image_ids]


def test_one_sentence_for_two_images_is_a_tie_against_both():
    random = np.random.default_rng(4)
    image_emb = random.standard_normal((40, 33)).astype(np.float32)
    text_emb = np.concatenate([image_emb, image_emb[:1] * 9])  # the last one is image 0's best by far
    sentence = np.append(np.arange(40), [40, 40])
    caption_ids = np.append(np.arange(40), [0, 39])  # and describes image 39 as well
    i2t, _ = retrieval_ranks(
        image_emb, text_emb, np.arange(40), caption_ids, block_size=8, caption_sentence=sentence
    )
    assert i2t[0] == 1


def test_tiles_that_do_not_fit_into_memory_are_made_again_the_same(monkeypatch):
    image_emb, text_emb, image_ids, caption_ids, sentence = random_case(
        np.random.default_rng(6), images=60, width=65
    )
    arguments = {"block_size": 16, "caption_sentence": sentence}
    kept = retrieval_ranks(image_emb, text_emb, image_ids, caption_ids, **arguments)
    monkeypatch.setattr("engine.ranking.tiles._KEPT_BYTES", 3 * 16 * 16 * 4)
    again = retrieval_ranks(image_emb, text_emb, image_ids, caption_ids, **arguments)
    assert kept[0].tolist() == again[0].tolist() and kept[1].tolist() == again[1].tolist()


def test_no_piece_of_scores_is_larger_than_a_block():
    class Sizes:
        largest = 0

        def write(self, images, captions, scores):
            Sizes.largest = max(Sizes.largest, *scores.shape)

    alike = np.ones((100, 3), np.float32)
    retrieval_ranks(alike, alike, range(100), range(100), block_size=9, scores_out=[Sizes()])
    assert Sizes.largest == 9


def test_order_similarity_is_made_in_pieces(monkeypatch):
    monkeypatch.setattr("engine.ranking.similarity._PIECE_BYTES", 100)
    random = np.random.default_rng(0)
    images, texts = random.random((5, 6)), random.random((11, 6))
    np.testing.assert_allclose(order_similarity(images, texts), order_by_loops(images, texts), rtol=1e-12)


def test_progress_reaches_its_total():
    seen = []
    emb = np.eye(30, dtype=np.float32)
    retrieval_ranks(emb, emb, range(30), range(30), block_size=10, progress=lambda *step: seen.append(step))
    assert seen == [(done, 12) for done in range(1, 13)]  # three tiles of the diagonal, then all nine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_emb": np.full((3, 2), np.nan, np.float32)}, "not finite in image embedding 0"),
        (
            {"text_emb": np.array([[0, 1], [1, np.inf], [1, 0]], np.float32)},
            "not finite in sentence embedding 1",
        ),
        (
            {"text_emb": np.array([[0, 1], [1, 0], [1, 3e19]], np.float32)},
            "too large to multiply in sentence embedding 2",
        ),
        ({"caption_image_ids": ["a", "b", "b"]}, r"every image, image 2 \(id c\) has none"),
        ({"image_ids": ["a", "b", "b"]}, r"every caption, caption 2 \(id c\) has none"),
        ({"image_fold": np.array([0, 1, 0])}, r"every image, image 1 \(id b\) has none"),
        (
            {"image_ids": ["a", "b"]},
            "images: expected as many of each, at least one, got 2 ids, 3 embeddings",
        ),
        ({"measure": "euclidean"}, "unknown measure 'euclidean'; expected one of cosine, order"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, message):
    arguments = {
        "image_emb": np.eye(3, 2, dtype=np.float32),
        "text_emb": np.eye(3, 2, dtype=np.float32),
        "image_ids": ["a", "b", "c"],
        "caption_image_ids": ["a", "b", "c"],
    }
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(**arguments | change)


def shared_split(seed: int, images: int = 19, sentences: int = 31, captions: int = 45):
    """Return embeddings with equal vectors and zeros among both sides, ids, and the captions' sentences."""
    random = np.random.default_rng(seed)
    image, text = (
        random.standard_normal((count, 6)).round(1).astype(np.float32) for count in (images, sentences)
    )
    image[[3, 11, 18]] = image[0]
    text[[9, 30]] = text[2]
    image[5], text[[4, 17]] = 0, 0
    caption_image = np.sort(
        np.concatenate([np.arange(images), random.integers(images, size=captions - images)])
    )
    sentence = np.concatenate([np.arange(sentences), random.integers(sentences, size=captions - sentences)])
    ids = [f"image {number // 2}" for number in range(images)]  # two rows an image
    return image, text, ids, caption_image, random.permutation(sentence)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 25])
@pytest.mark.parametrize(("measure", "rule", "folds"), [("cosine", "against", 1), ("order", "average", 2)])
def test_processes_that_share_the_tiles_have_the_ranks_of_one(monkeypatch, processes, measure, rule, folds):
    image, text, ids, caption_image, sentence = shared_split(processes)
    caption_ids = [ids[row] for row in caption_image]
    image_fold = (np.arange(len(ids)) // 2 >= 5).astype(int) * (folds - 1)
    settings = measure, 4, rule, sentence, image_fold, image_fold[caption_image]
    expected = retrieval_ranks(image, text, ids, caption_ids, *settings)
    steps = [[] for _ in range(processes)]

    def work(number: int):
        show = lambda *step: steps[number].append(step)  # noqa: E731
        part = number, processes
        return retrieval_ranks(image, text, ids, caption_ids, *settings, progress=show, part=part)

    for found in ThreadJob(processes, monkeypatch).run(work):
        for side in (0, 1):
            np.testing.assert_array_equal(found[side], expected[side])
    for told in steps:
        assert [done for done, _ in told] == list(range(1, len(told) + 1))
        assert {total for _, total in told} <= {len(told)}


def test_what_one_process_raises_while_ranking_ends_all(monkeypatch):
    image, text, ids, caption_image, sentence = shared_split(1)
    caption_ids = [ids[row] for row in caption_image]

    def work(number: int) -> str:
        def stop(*step: int) -> None:
            if number == 1:
                raise ValidationStoppedError

        settings = {"block_size": 4, "caption_sentence": sentence, "progress": stop, "part": (number, 3)}
        with pytest.raises(ValidationStoppedError):
            retrieval_ranks(image, text, ids, caption_ids, **settings)

    ThreadJob(3, monkeypatch).run(work)


@pytest.mark.parametrize(("images", "texts", "width"), [(1, 1, 3), (300, 7, 33), (513, 600, 64)])
def test_products_are_the_same_on_any_number_of_threads(images, texts, width):
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((count, width), dtype=np.float32) for count in (images, texts))
    found = inner_products(a, b)
    np.testing.assert_array_equal(found, inner_products_on_one_thread(a, b))
    np.testing.assert_allclose(found, a.astype(float) @ b.T.astype(float), rtol=1e-4, atol=1e-4)
