"""An audit finds what was planted, by pictures or by features, and recounts as a plain subset does."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.build.audited import AuditedSplit, said
from engine.certificates.sides import certify
from engine.certificates.stored import RANKS_FILE, read_ranks
from engine.inspection.audit import audit, recounts
from tests.engine.inspection.evaluated import IMAGES, Split


def split_of(name, looks, captions=(), owners=(), content=None):
    ids = [f"{name}{number}" for number in range(len(looks))]
    content = content or [row.tobytes() for row in looks]
    return AuditedSplit(name, ids, content, looks, list(captions), np.array(owners, np.int64))


def pairs_of(found, kind):
    return {(each.first, each.second): getattr(each, kind).tolist() for each in found.pictures}


@pytest.mark.parametrize("by_pictures", [True, False])
def test_planted_pictures_are_found_within_and_across_splits(by_pictures):
    random = np.random.default_rng(0)
    if by_pictures:
        train, test = (random.random((n, 143)) < 0.5 for n in (30, 20))
    else:
        train, test = (random.normal(size=(n, 40)).astype("f4") for n in (30, 20))
    test[4], test[9] = train[7], test[2]
    test[5] = train[8]
    if by_pictures:
        test[5, :10] ^= True
    else:
        test[5] += 0.05 * random.normal(size=40)
    found = audit([split_of("train", train), split_of("test", test)])
    equal, alike = pairs_of(found, "equal"), pairs_of(found, "alike")
    assert equal == {("train", "train"): [], ("train", "test"): [[7, 4]], ("test", "test"): [[2, 9]]}
    assert alike == {("train", "train"): [], ("train", "test"): [[8, 5]], ("test", "test"): []}
    assert ("perceptual" in found.method) == by_pictures


def test_what_is_like_one_of_two_equal_pictures_is_like_both():
    looks = np.random.default_rng(0).normal(size=(12, 40)).astype("f4")
    looks[3] = looks[0]
    looks[5] = looks[0] + 0.01
    [found] = audit([split_of("test", looks)]).pictures
    assert found.equal.tolist() == [[0, 3]] and found.alike.tolist() == [[0, 5], [3, 5]]


def test_features_without_a_direction_are_like_no_others():
    looks = np.ones((5, 3), np.float32)
    looks[2:] = 1 + 0.0
    content = [bytes([number]) for number in range(5)]
    [found] = audit([split_of("test", looks, content=content)]).pictures
    assert not len(found.equal) and not len(found.alike)


def test_sentences_are_equal_or_equal_but_for_case_and_punctuation():
    looks = np.random.default_rng(0).normal(size=(3, 20)).astype("f4")
    train = split_of("train", looks, ["A dog runs.", "two cats", "two cats"], [0, 1, 1])
    test = split_of("test", looks + 9, ["a dog, runs", "two cats", "one bird", "One bird!"], [0, 1, 1, 2])
    found = {(each.first, each.second): each for each in audit([train, test]).sentences}
    across, within = found["train", "test"], found["test", "test"]
    assert across.equal.tolist() == [1] and across.alike.tolist() == [0]
    assert within.equal.tolist() == [] and within.alike.tolist() == [2, 3]
    assert found["train", "train"].equal.tolist() == []  # twice of one image
    assert said("  Émile’s  DOG, ran! ") == "émile s dog ran"


def test_a_recount_leaves_out_the_queries_that_a_leak_concerns(tmp_path):
    split = Split()
    ranks = read_ranks(split.write(tmp_path / "a") / RANKS_FILE)
    random = np.random.default_rng(0)
    looks = random.normal(size=(IMAGES, 40)).astype("f4")
    test = AuditedSplit(
        "test", split.image_ids, [row.tobytes() for row in looks], looks, split.captions, split.caption_image
    )
    others = random.normal(size=(8, 40)).astype("f4")
    others[[1, 2]] = looks[[3, 6]]
    train = split_of("train", others, ["a sentence of its own", split.captions[10].upper()], [0, 1])
    found, nothing_left = recounts(audit([train, test]), ranks, "test", 200, 1)
    by_name = {each.without: each for each in found}
    assert by_name[""].left == {"i2t_": IMAGES, "t2i_": split.num_captions}
    leaks = by_name["pictures that train has too"]
    assert leaks.left == {"i2t_": IMAGES - 2, "t2i_": split.num_captions - 6}
    stored = ranks.sides
    for k in (1, 5, 10):
        left = ~np.isin(np.arange(IMAGES), [3, 6])
        hits = stored["i2t_"].against[left] < k
        assert leaks.metrics[f"i2t_r{k}"].value == pytest.approx(100 * hits.mean())
        hits = stored["t2i_"].against[left[split.caption_image]] < k
        assert leaks.metrics[f"t2i_r{k}"].value == pytest.approx(100 * hits.mean())
    said_too = by_name["sentences that train has too"]
    same = split.captions.count(split.captions[10])
    assert said_too.left == {"i2t_": IMAGES, "t2i_": split.num_captions - same}
    expected = certify(stored, "against", 200, 1)["rsum"]
    assert by_name[""].metrics["rsum"] == expected
    assert all("of several images" in name or name == "any of these" for name in nothing_left)


def test_ranks_of_other_data_are_refused(tmp_path):
    split = Split()
    ranks = read_ranks(split.write(tmp_path / "a") / RANKS_FILE)
    looks = np.random.default_rng(0).normal(size=(IMAGES, 8)).astype("f4")
    other = split_of("test", looks, split.captions, split.caption_image)
    with pytest.raises(UserError, match="other images than the audited data has"):
        recounts(audit([other]), ranks, "test", 10, 1)
    with pytest.raises(UserError, match="ranks of dev, expected one of test"):
        recounts(audit([other]), ranks, "dev", 10, 1)
