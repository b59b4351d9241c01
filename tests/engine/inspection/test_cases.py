"""Misses and disagreements are chosen by rank alone, and show what each model put first."""

import numpy as np
import pytest

from config.errors import UserError
from engine.inspection.cases import disagreements, misses, open_both, open_result
from tests.engine.inspection.evaluated import Split


@pytest.fixture
def folders(tmp_path):
    return Split(seed=1).write(tmp_path / "x", "a"), Split(seed=2).write(tmp_path / "y", "b")


def plain_rank(split, caption):
    own = split.scores[split.caption_image[caption], caption]
    return 1 + sum(
        split.scores[image, caption] >= own
        for image in range(len(split.image_ids))
        if image != split.caption_image[caption]
    )


def test_the_worst_misses_are_of_different_images_and_say_what_beat_them(folders):
    split, found = Split(seed=1), misses(open_result(folders[0]), "t2i", 4)
    ranks = np.array([plain_rank(split, caption) for caption in range(split.num_captions)])
    assert found[0].answers[0].rank == ranks.max() and len(found) == 4
    assert len({split.caption_image[case.query] for case in found}) == 4
    for case in found:
        [answer] = case.answers
        assert answer.rank == ranks[case.query] > 1
        assert answer.right.place == split.caption_image[case.query]
        assert answer.right.score == split.scores[answer.right.place, case.query]
        best = split.scores[:, case.query].argmax()
        assert answer.beaten_by.place == best and not answer.beaten_by.right


def test_a_caption_that_says_what_is_right_beats_nothing(folders):
    result = open_result(folders[0])
    for case in misses(result, "i2t", 14):
        own = {result.lists.captions[c] for c in np.flatnonzero(result.lists.caption_image == case.query)}
        for item in case.answers[0].first:
            assert item.right == (result.lists.captions[item.place] in own)


def test_disagreements_are_those_of_the_largest_difference(folders):
    first, second = open_both(*folders)
    splits = Split(seed=1), Split(seed=2)
    apart = [
        plain_rank(splits[1], caption) - plain_rank(splits[0], caption)
        for caption in range(splits[0].num_captions)
    ]
    found = disagreements(first, second, "t2i", 3)
    shown = [case.answers[1].rank - case.answers[0].rank for case in found]
    assert shown[0] == max(apart) and shown == sorted(shown, reverse=True) and shown[-1] > 0
    assert [answer.model for answer in found[0].answers] == ["a", "b"]
    back = disagreements(second, first, "t2i", 3)
    assert back[0].answers[1].rank - back[0].answers[0].rank == -min(apart)


def test_lists_of_another_evaluation_are_refused(folders):
    lists = folders[0] / "lists.npz"
    split = Split()
    split.captions[0] = "another sentence"
    split.write(folders[0].parent / "z")
    lists.write_bytes((folders[0].parent / "z" / "lists.npz").read_bytes())
    with pytest.raises(UserError, match="other captions than in ranks.npz beside it"):
        open_result(folders[0])
