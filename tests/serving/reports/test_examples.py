"""What a report shows is chosen by rank alone: hits that are hits, misses that are misses."""

import numpy as np

from serving.reports.examples import (
    best_captions,
    comparisons,
    example,
    image_examples,
    relating_captions,
    worst_captions,
)
from tests.closeness import SINGLE, assert_close


def test_best_hits_and_worst_misses_are_of_different_pictures():
    caption_image = np.array([0, 0, 1, 1, 2, 2])
    ranks = np.array([0, 0, 5, 9, 0, 7])
    assert best_captions(ranks, caption_image) == [0, 4]
    assert worst_captions(ranks, caption_image) == [3, 5], "and no hit is listed among the misses"


def test_without_misses_none_is_listed():
    assert worst_captions(np.zeros(4, int), np.arange(4)) == []


def test_an_example_frames_the_picture_of_its_caption(searcher):
    shown = example(searcher, 3, np.array([0, 0, 0, 4]))
    assert (shown.caption, shown.rank, shown.truth.name) == ("a cat", 5, "image_1")
    assert [hit.name for hit in shown.hits if hit.right] in ([], ["image_1"])
    assert [hit.name for hit in shown.hits] == [hit.name for hit in searcher.images_for_text("a cat", 5)]


def test_captions_that_place_one_thing_by_another_are_told_from_others():
    captions = [
        "a dog",
        "a dog LEFT of a cat",
        "bright lights",
        "a boat next to a pier",
        "underwear",
        "it is over",
    ]
    assert relating_captions(captions).tolist() == [1, 3, 5]
    assert relating_captions(["a dog"]).tolist() == []


def test_models_are_compared_on_what_all_one_and_none_of_them_find(searcher):
    ranks = {
        "one": np.array([0, 0, 3, 0, 1, 1, 9, 0, 2, 2, 2, 2]),
        "two": np.array([0, 1, 0, 2, 1, 1, 9, 0, 2, 2, 2, 2]),
    }
    compared = comparisons({"one": searcher, "two": searcher}, ranks, np.arange(8))
    assert [(item.found_by, item.alike) for item in compared] == [
        (["one", "two"], 2),  # captions 0 and 7
        (["one"], 2),  # 1 and 3
        (["two"], 1),  # 2
        ([], 3),  # 4, 5 and 6
    ]
    rows = [7, 3, 2, 5]
    for item, row in zip(compared, rows, strict=True):
        assert {name: answer.rank for name, answer in item.answers.items()} == {
            name: ranks[name][row] + 1 for name in ranks
        }
        assert {answer.caption for answer in item.answers.values()} == {searcher.dataset.captions[row]}
    never_alone = {"one": np.zeros(12, int), "two": np.zeros(12, int)}
    (only,) = comparisons({"one": searcher, "two": searcher}, never_alone, np.arange(12))
    assert only.found_by == ["one", "two"] and only.alike == 12


def test_sentences_of_a_picture_are_marked_as_its_own(searcher):
    dataset = searcher.dataset
    for shown in image_examples(searcher, np.arange(6)):
        image = dataset.image_ids.index(shown.image_id)
        own = {
            caption
            for caption, of in zip(dataset.captions, dataset.caption_image, strict=True)
            if of == image
        }
        assert shown.rank == image + 1
        assert [hit.right for hit in shown.captions] == [hit.name in own for hit in shown.captions]


def test_a_picture_finds_the_others_by_the_cosine_of_their_embeddings(searcher):
    unit = searcher.images / np.linalg.norm(searcher.images, axis=1, keepdims=True)
    ids = searcher.dataset.image_ids
    for shown in image_examples(searcher, np.arange(6)):
        row = ids.index(shown.image_id)
        scores = {name: float(unit[row] @ other) for name, other in zip(ids, unit, strict=True)}
        del scores[shown.image_id]
        assert [hit.name for hit in shown.pictures] == sorted(scores, key=scores.get, reverse=True)[:5]
        found, expected = [hit.score for hit in shown.pictures], sorted(scores.values())[::-1][:5]
        assert_close(found, expected, 3 * unit.shape[1], scale=1.0, unit=2 * SINGLE)
