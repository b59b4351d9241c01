"""Doubted pairs are those of a plain search; judgements extend the right pairs, and recounts are exact."""

import json
from dataclasses import replace

import numpy as np
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.captions.relevance_files import read_relevance
from datasets.relevance import Relevance
from engine.certificates.stored import read_ranks
from engine.inspection.judgements import (
    Judgement,
    doubted_pairs,
    extended,
    read_judgements,
    settled,
    write_judgements,
    write_positives,
)
from engine.inspection.recounted import recounted
from engine.ranking.precisions import precisions_of_rows
from tests.engine.inspection.evaluated import IMAGES, Split


def judged(split, lists, pairs, right=True):
    return [
        Judgement(
            split.image_ids[each.image], split.caption_ids[each.caption], lists.captions[each.caption], right
        )
        for each in pairs
    ]


@pytest.mark.parametrize("folds", [1, 2])
def test_doubted_pairs_stand_before_what_is_right_and_no_file_says_them(folds):
    split = Split(coarse=True, folds=folds)
    k = IMAGES * 3
    found = doubted_pairs(split.kept(k))
    expected = set()
    for image in range(IMAGES):
        said = {split.captions[caption] for caption in np.flatnonzero(split.caption_image == image)}
        own = split.scores[image, split.caption_image == image].max()
        for caption in np.flatnonzero(split.caption_fold == split.image_fold[image]):
            truth = split.scores[split.caption_image[caption], caption]
            score = split.scores[image, caption]
            if split.captions[caption] not in said and (score >= own or score >= truth):
                expected.add((image, split.captions[caption]))
    assert {(each.image, split.captions[each.caption]) for each in found} == expected
    assert len(found) == len(expected) > 20
    both = [each.i2t_place is not None and each.t2i_place is not None for each in found]
    assert both[0]


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize(
    ("coarse", "folds", "k"), [(False, 1, 42), (True, 1, 42), (True, 2, 42), (False, 1, 14)]
)
def test_a_recount_is_that_of_the_whole_matrix(tmp_path, coarse, folds, k, tie_rule):
    split = Split(coarse=coarse, folds=folds)
    folder = split.write(tmp_path / "a", k=k, tie_rule=tie_rule)
    lists, ranks = split.kept(k), read_ranks(folder / "ranks.npz")
    pairs = doubted_pairs(lists)
    relevance = extended(lists, judged(split, lists, pairs[::3]))
    found, unsure = recounted(ranks, lists, relevance)
    expected = split.sides(relevance)
    for prefix, side in found.items():
        np.testing.assert_array_equal(side.query, expected[prefix].query)
        np.testing.assert_array_equal(side.relevant, expected[prefix].relevant)
        for name, numbers in expected[prefix].numbers(tie_rule).items():
            if name in ("r1", "r5", "r10"):
                np.testing.assert_array_equal(side.numbers(tie_rule)[name], numbers, name)
    assert unsure == 0
    within = relevance.within(split.image_fold, split.caption_fold)
    for prefix, scores, right, rows, columns in (
        ("i2t_", split.scores, within, split.image_fold, split.caption_fold),
        ("t2i_", split.scores.T, within.turned, split.caption_fold, split.image_fold),
    ):
        competing = np.where(rows[:, None] == columns, scores, -np.inf)
        average, share = precisions_of_rows(competing, right, tie_rule)
        np.testing.assert_allclose(found[prefix].precisions["map_at_r"], average, atol=1e-12)
        np.testing.assert_allclose(found[prefix].precisions["r_precision"], share, atol=1e-12)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("k", [1, 4, 8, 12, 20])
def test_pairs_of_another_models_desk_are_recounted_exactly_or_refused(tmp_path, k, coarse):
    split, other = Split(seed=3, coarse=coarse), Split(seed=4)
    folder = split.write(tmp_path / "a", k=k)
    lists, ranks = split.kept(k), read_ranks(folder / "ranks.npz")
    refused = 0
    for start in range(12):
        relevance = extended(lists, judged(other, lists, doubted_pairs(other.kept(6))[start::12]))
        try:
            found, _ = recounted(ranks, lists, relevance)
        except UserError:
            refused += 1
            continue
        for prefix, expected in split.sides(relevance).items():
            for name in ("r1", "r5", "r10"):
                numbers = found[prefix].numbers("against")[name], expected.numbers("against")[name]
                np.testing.assert_array_equal(*numbers, name)
    assert refused == 12 if k == 1 else refused == 0 if k == 20 else True


def test_a_list_that_is_too_short_is_said(tmp_path):
    split = Split()
    folder = split.write(tmp_path / "a", k=2)
    lists, ranks = split.kept(2), read_ranks(folder / "ranks.npz")
    _, unsure = recounted(ranks, lists, lists.relevance)
    assert unsure > 0
    kept = split.kept(42)
    everything = extended(kept, judged(split, kept, doubted_pairs(kept)))
    with pytest.raises(UserError, match="EVAL.LIST_LENGTH=4"):
        recounted(ranks, lists, everything)


def test_judgements_extend_every_caption_that_says_the_same():
    split = Split()
    lists = split.kept()
    pair = next(each for each in doubted_pairs(lists) if len(lists.alike(each.caption)) > 1)
    relevance = extended(lists, judged(split, lists, [pair]))
    same = [place for place, text in enumerate(split.captions) if text == split.captions[pair.caption]]
    assert relevance.are_right(pair.image, np.array(same)).all()
    assert len(relevance.images) == split.num_captions + len(same)
    assert len(extended(lists, judged(split, lists, [pair], right=False)).images) == split.num_captions


def test_pairs_that_were_judged_both_ways_are_left_out():
    pairs = [Judgement("1", "a", "s", True), Judgement("1", "b", "s", False), Judgement("2", "a", "s", True)]
    kept, contested = settled(pairs)
    assert contested == 1 and kept == [pairs[2]]


def test_judgements_come_back_and_those_of_others_are_refused(tmp_path):
    split = Split()
    lists = split.kept()
    judgements = judged(split, lists, doubted_pairs(lists)[:3])
    write_judgements(tmp_path / "j.json", judgements)
    assert read_judgements(tmp_path / "j.json", lists) == judgements
    for change, part in (
        ({"image": "no.jpg"}, "the image 'no.jpg' is not in the result"),
        ({"caption": "c99"}, "the caption 'c99' is not in the result"),
        ({"sentence": "another"}, "'another' was judged, but caption"),
    ):
        write_judgements(tmp_path / "other.json", [judgements[0], replace(judgements[1], **change)])
        with pytest.raises(UserError, match=part) as refusal:
            read_judgements(tmp_path / "other.json", lists)
        assert "judgement 2" in str(refusal.value) and "\n" not in str(refusal.value)
    for text in ("[]", "{", '{"judgements": [{"image": 1}]}', '{"judgements": 3}', '{"judgements": [null]}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match="not judgements"):
            read_judgements(tmp_path / "other.json", lists)


def test_positives_have_the_form_of_eccv_caption_and_are_read_as_relevance(tmp_path):
    split = Split()
    lists = split.kept()
    relevance = extended(lists, judged(split, lists, doubted_pairs(lists)[:5]))
    by_image, by_caption = write_positives(tmp_path, "test", lists, relevance)
    content = json.loads(by_image.read_text())
    assert set(content) == set(split.image_ids) and content["0.jpg"][:3] == ["c0", "c1", "c2"]
    turned = json.loads(by_caption.read_text())
    assert {(i, c) for i, all_of in content.items() for c in all_of} == {
        (i, c) for c, all_of in turned.items() for i in all_of
    }
    rows = np.arange(IMAGES)
    own = CaptionSplit("test", split.image_ids, rows, split.captions, split.caption_image, split.caption_ids)
    again: Relevance = read_relevance(by_image, own)
    np.testing.assert_array_equal(again.images, relevance.images)
    np.testing.assert_array_equal(again.captions, relevance.captions)
