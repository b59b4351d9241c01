"""Lists hold what a sort of the whole matrix puts first, and come back from their file as they were."""

from unittest.mock import MagicMock

import numpy as np
import pytest

from config.errors import UserError
from engine.inspection.kept_lists import KeptLists, ListKeeper, read_lists, write_lists
from engine.ranking.ranks import Question, rank_counters
from tests.engine.inspection.evaluated import IMAGES, Split


def first_of(scores, places, k):
    order = sorted(places, key=lambda place: (-scores[place], place))
    return order[:k]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("folds", [1, 3])
def test_lists_are_those_of_a_sort_and_right_pairs_keep_their_scores(folds, coarse):
    split = Split(coarse=coarse, folds=folds)
    kept = split.kept(k=4)
    for image in range(IMAGES):
        rivals = np.flatnonzero(split.caption_fold == split.image_fold[image]).tolist()
        said = [split.sentence_ids[caption] for caption in rivals]
        firsts = [caption for place, caption in enumerate(rivals) if said.index(said[place]) == place]
        expected = first_of(split.scores[image], firsts, 4)
        assert kept.i2t[image].tolist() == expected
        np.testing.assert_array_equal(kept.i2t_scores[image], split.scores[image, expected])
    for caption in range(split.num_captions):
        rivals = np.flatnonzero(split.image_fold == split.caption_fold[caption]).tolist()
        expected = first_of(split.scores[:, caption], rivals, 4)
        assert kept.t2i[caption].tolist() == expected
        right, scores = kept.right("t2i", caption)
        assert right.tolist() == [split.caption_image[caption]]
        assert scores.tolist() == [split.scores[right[0], caption]]


def test_pairs_one_by_one_fill_the_same_lists_as_tiles():
    split = Split(coarse=True)
    keeper = ListKeeper(split, 6, split.image_fold)
    pairs = np.random.default_rng(4).permutation(split.scores.size)
    for part in np.array_split(pairs, 7):
        images, captions = np.divmod(part, split.num_captions)
        keeper.write_pairs(images, captions, split.scores[images, captions])
    found, expected = keeper.close(), split.kept(6)
    for name in ("i2t", "t2i", "i2t_scores", "t2i_scores", "right_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("folds", [1, 3])
def test_screened_tiles_keep_what_whole_ones_do(folds):
    split = Split(folds=folds)
    random = np.random.default_rng(0)
    images, texts = (random.standard_normal((size, 200)).astype("f4") for size in (IMAGES, 30))
    texts[split.sentence_ids] += images[split.caption_image]
    question = Question(split.relevance, split.image_fold, split.caption_fold)
    screened, whole, sink = *(ListKeeper(split, 4, split.image_fold) for _ in range(2)), MagicMock()
    for keeper, scores_out in ((screened, []), (whole, [sink])):
        arguments = {"block_size": 10, "caption_sentence": split.sentence_ids, "scores_out": scores_out}
        rank_counters(images, texts, question, **arguments, lists_out=[keeper])
    found, expected = screened.close(), whole.close()
    assert sink.write.called and np.isfinite(found.right_scores).all()
    for name in ("i2t", "t2i", "i2t_scores", "t2i_scores", "right_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_captions_that_say_the_same_in_a_fold_stand_together():
    kept = Split(folds=2).kept()
    for caption in range(len(kept.captions)):
        fold = kept.caption_fold[caption]
        expected = [
            place
            for place, text in enumerate(kept.captions)
            if text == kept.captions[caption] and kept.caption_fold[place] == fold
        ]
        assert kept.alike(caption).tolist() == expected


def test_a_file_of_lists_comes_back(tmp_path):
    kept = Split(folds=2).kept()
    kept.captions[3] = 'a "quoted" — 画 sentence\nof two lines'
    write_lists(tmp_path / "lists.npz", kept)
    found = read_lists(tmp_path / "lists.npz")
    for name in KeptLists.__dataclass_fields__:
        if name != "relevance":
            np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
    np.testing.assert_array_equal(found.relevance.images, kept.relevance.images)
    assert found.relevance.rule == "image id"


def test_lists_that_do_not_fit_their_names_are_refused_in_one_line(tmp_path):
    write_lists(tmp_path / "lists.npz", Split().kept())
    with np.load(tmp_path / "lists.npz") as file:
        arrays = dict(file)
    changes = {
        "i2t": arrays["i2t"] + 1000,
        "t2i_scores": arrays["t2i_scores"][:, :2],
        "captions": np.frombuffer(b"[1]", np.uint8),
        "image_fold": arrays["image_fold"][1:],
        "sentence": arrays["sentence"] - 1,
        "caption_image": arrays["caption_image"] - 1,
        "right_scores": arrays["right_scores"].astype("U"),
    }
    cases = [*changes.items(), ("image_fold", -arrays["image_fold"] - 1)]
    cases.append(("right_scores", arrays["right_scores"] * np.float32("nan")))
    for name, array in cases:
        np.savez(tmp_path / "broken.npz", **(arrays | {name: array}))
        with pytest.raises(UserError, match="evaluate again") as refusal:
            read_lists(tmp_path / "broken.npz")
        assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(UserError, match="EVAL.LIST_LENGTH"):
        read_lists(tmp_path / "nothing.npz")
