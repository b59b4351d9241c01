"""Each protocol's numbers are those of plain loops over small scores with ties; misfits are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from datasets.relevance import Relevance
from engine.certificates.sides import certify
from engine.protocols.measure import measure_protocols
from engine.protocols.protocols import Request, count_protocols
from engine.protocols.recount import conventions, format_rows
from engine.protocols.scored import read_scores

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

IMAGES, CAPTIONS = 10, 30
NAMES = [f"COCO_val2014_{1000 + place:012}.jpg" for place in range(IMAGES)]
OWNER = np.arange(CAPTIONS) // 3
CAPTION_NUMBERS = 500 + np.random.default_rng(1).permutation(CAPTIONS)


def scores_with_ties() -> np.ndarray:
    random = np.random.default_rng(0)
    return np.round(random.normal(size=(IMAGES, CAPTIONS)) + (np.arange(IMAGES)[:, None] == OWNER), 1)


def write(path: Path, **arrays) -> Path:
    base = {"image_ids": NAMES, "caption_image_ids": [NAMES[owner] for owner in OWNER]}
    np.savez(path, **(base | arrays))
    return path


@pytest.fixture
def scored(tmp_path):
    return read_scores(write(tmp_path / "s.npz", scores=scores_with_ties()))


def values(name, request, tie_rule="against"):
    found = certify(count_protocols(request, [name])[0].sides, tie_rule, resamples=2)
    return {metric: one.value for metric, one in found.items()}


def rank(row, right, competing, rivals_first=True):
    best = max(score for score, hit in zip(row, right, strict=True) if hit)
    rivals = [score for score, hit, there in zip(row, right, competing, strict=True) if there and not hit]
    return sum(score >= best if rivals_first else score > best for score in rivals)


@pytest.mark.parametrize(("name", "folds"), [("one_list", 1), ("coco_1k", 5)])
def test_recalls_in_folds(scored, name, folds):
    found = values(name, Request(scored))
    scores, size = scores_with_ties(), IMAGES // folds
    for direction, rows, own, items in (
        ("i2t", scores, np.arange(IMAGES), OWNER),
        ("t2i", scores.T, OWNER, np.arange(IMAGES)),
    ):
        ranks = [
            rank(row, items == own[query], items // size == own[query] // size)
            for query, row in enumerate(rows)
        ]
        for k in (1, 5, 10):  # folds are of one size, so that their mean is the mean of all
            assert found[f"{direction}_r{k}"] == pytest.approx(100 * np.mean([each < k for each in ranks]))


@pytest.fixture
def cxc_folder(tmp_path):
    """The files of CxC with made-up ratings of ten pictures and thirty captions."""
    random = np.random.default_rng(5)
    folder = tmp_path / "cxc"
    folder.mkdir()
    numbers = CAPTION_NUMBERS.tolist()
    right = random.random((IMAGES, CAPTIONS)) < 0.15
    right[2], right[:, 3] = False, False
    maps = {
        "original_caption_to_image": {str(n): [1000 + int(OWNER[p])] for p, n in enumerate(numbers)},
        "cxc_image_to_caption": {
            str(1000 + row): [numbers[c] for c in np.flatnonzero(right[row])]
            for row in range(IMAGES)
            if right[row].any()
        },
        "cxc_caption_to_image": {
            str(numbers[c]): [1000 + int(r) for r in np.flatnonzero(right[:, c])]
            for c in range(CAPTIONS)
            if right[:, c].any()
        },
    }
    for name, content in maps.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    np.save(folder / "coco_test_ids.npy", CAPTION_NUMBERS)
    pictures = {(1, 4): 3.0, (4, 7): 2.5, (2, 9): 2.4, (8, 0): 5.0}
    captions = {(0, 20): 3.0, (5, 11): 2.9, (13, 2): 4.0}
    lines = [f"{NAMES[a]},{NAMES[b]},{score},x" for (a, b), score in pictures.items()]
    (folder / "sis_test.csv").write_text("\n".join(["image1,image2,agg_score,m", *lines]))
    lines = [
        f"COCO_val2014:sentid:{numbers[a]},COCO_val2014:sentid:{numbers[b]},{score},x"
        for (a, b), score in captions.items()
    ]
    (folder / "sts_test.csv").write_text("\n".join(["c1,c2,agg_score,m", *lines]))
    return folder, right, pictures, captions


def embedded(tmp_path):
    random = np.random.default_rng(2)
    image = random.integers(-2, 3, (IMAGES, 3)).astype(np.float32)
    text = random.integers(-2, 3, (CAPTIONS, 3)).astype(np.float32)
    path = write(tmp_path / "e.npz", image=image, text=text)
    return read_scores(path), image, text


@pytest.mark.parametrize("quirks", [(), ("one_way",), ("zero_self",)])
def test_cxc_in_four_directions(tmp_path, cxc_folder, quirks):
    folder, right, pictures, captions = cxc_folder
    scored, image, text = embedded(tmp_path)
    found = values("cxc", Request(scored, quirks=frozenset(quirks), data=folder))
    similar = np.zeros((IMAGES, IMAGES), bool)
    alike = OWNER[:, None] == OWNER
    for matrix, pairs, least in ((similar, pictures, 2.5), (alike, captions, 3)):
        for (one, other), score in pairs.items():
            matrix[one, other] |= score >= least
            matrix[other, one] |= score >= least and "one_way" not in quirks
    for direction, rows, hits in (
        ("i2t", image @ text.T, right),
        ("t2i", text @ image.T, right.T),
        ("i2i", image @ image.T, similar),
        ("t2t", text @ text.T, alike),
    ):
        ranks = []
        for query, row in enumerate(rows):
            there, hit, row = np.ones(len(row), bool), hits[query].copy(), row.copy()
            if direction in ("i2i", "t2t"):
                hit[query] = False
                if "zero_self" in quirks:
                    row[query] = 0
                else:
                    there[query] = False
            if hit.any():
                ranks.append(rank(row, hit & there, there))
        for k in (1, 5, 10):
            assert found[f"{direction}_r{k}"] == pytest.approx(100 * np.mean([each < k for each in ranks]))


@pytest.mark.parametrize("beside", [[], ["coco_1k"], ["one_list", "eccv"]])
def test_eccv_caption_alone_and_beside_other_protocols(tmp_path, cxc_folder, beside):
    """Its numbers are those of loops, whatever is counted beside it."""
    folder = cxc_folder[0]
    random = np.random.default_rng(6)
    numbers = [1000 + place for place in range(IMAGES)]
    of_images = {
        str(numbers[row]): sorted(random.choice(CAPTION_NUMBERS, 5, replace=False).tolist()) for row in (7, 2)
    }
    of_captions = {
        str(CAPTION_NUMBERS[row]): sorted(random.choice(numbers, 3, replace=False).tolist()) for row in (9, 3)
    }
    (folder / "eccv_image_to_caption.json").write_text(json.dumps(of_images))
    (folder / "eccv_caption_to_image.json").write_text(json.dumps(of_captions))
    scored, image, text = embedded(tmp_path)
    found = count_protocols(Request(scored, data=folder), [*beside, "eccv"])[-1].sides
    for prefix, positives, queries, items, rows in (
        ("i2t_", of_images, numbers, CAPTION_NUMBERS, image @ text.T),
        ("t2i_", of_captions, CAPTION_NUMBERS, numbers, text @ image.T),
    ):
        side, averages, shares, first = found[prefix], [], [], []
        for query in side.query:
            right = [item in positives[str(queries[query])] for item in items]
            order = sorted(range(len(items)), key=lambda place: (-rows[query][place], right[place]))
            hits = [right[place] for place in order]
            count = sum(right)
            averages.append(sum(sum(hits[:r]) / r for r in range(1, count + 1) if hits[r - 1]) / count)
            shares.append(sum(hits[:count]) / count)
            first.append(hits.index(True))
        assert side.query.tolist() == sorted(list(queries).index(int(name)) for name in positives)
        assert side.against.tolist() == first
        np.testing.assert_allclose(side.precisions["map_at_r"], averages)
        np.testing.assert_allclose(side.precisions["r_precision"], shares)


@pytest.mark.parametrize("tie_rule", ["against", "favour"])
@pytest.mark.parametrize("variant", ["pcme", "eccv", "cut"])
def test_pmrp_in_three_variants(tmp_path, scored, variant, tie_rule, monkeypatch):
    monkeypatch.setattr("engine.protocols.pmrp.LISTS_END", 4)
    random = np.random.default_rng(3)
    held = {
        name: sorted({int(each) for each in random.integers(0, 4, random.integers(0, 4))}) for name in NAMES
    }
    held[NAMES[6]] = []
    (tmp_path / "o.json").write_text(json.dumps(held))
    found = values(f"pmrp_{variant}", Request(scored, tie_rule, objects=tmp_path / "o.json"), tie_rule)
    expected = plain_pmrp(scores_with_ties(), OWNER, [held[name] for name in NAMES], variant, tie_rule, 4)
    for direction, value in expected.items():
        assert found[f"{direction}_pmrp"] == pytest.approx(value)


def plain_pmrp(scores, owner, held, variant, tie_rule, ends):
    """Return PMRP of both directions in percent, by sorting each row; `held` are each picture's objects."""
    values = {}
    for direction, rows, own, items in (
        ("i2t", scores, np.arange(len(scores)), owner),
        ("t2i", scores.T, owner, np.arange(len(scores))),
    ):
        of_queries = []
        for query, row in enumerate(rows):
            mine = set(held[own[query]])
            by_threshold, any_right = [], False
            for threshold in (0, 1, 2) if variant == "pcme" else (2,):
                hits = []
                for item in items:
                    others = set(held[item])
                    near = bool(mine) and bool(others) and len(mine ^ others) <= threshold
                    hits.append(near and (variant == "pcme" or item != own[query]))
                order = sorted(
                    range(len(row)), key=lambda place: (-row[place], hits[place] == (tie_rule == "against"))
                )
                count = min(sum(hits), ends) if variant == "cut" else sum(hits)
                by_threshold.append(np.mean([hits[place] for place in order[:count]]) if count else 0.0)
                any_right |= count > 0
            if any_right:
                of_queries.append(np.mean(by_threshold))
        values[direction] = 100 * np.mean(of_queries)
    return values


@pytest.mark.parametrize("variant", ["pcme", "eccv", "cut"])
def test_pmrp_of_real_pictures_and_their_detected_objects(tmp_path, variant):
    """120 photos with the classes that a detector found: lists of more than 50, and photos without any."""
    folder = SHARED / "natural_regions_precomp"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real pictures with objects")
    names = (folder / "test_ids.txt").read_text().split()
    tags = [line.split() for line in (folder / "test_tags.txt").read_text().splitlines()[: len(names)]]
    (tmp_path / "o.json").write_text(json.dumps(dict(zip(names, tags, strict=True))))
    owner = np.repeat(np.arange(len(names)), 5)
    pooled = np.load(folder / "test_ims.npy").astype(np.float32).mean(axis=1)
    noise = np.random.default_rng(0).normal(scale=pooled.std(), size=(len(owner), pooled.shape[1]))
    texts = pooled[owner] + noise.astype(np.float32)
    np.savez(
        tmp_path / "s.npz",
        **{"image_ids": names, "caption_image_ids": [names[image] for image in owner]},
        scores=np.round(pooled @ texts.T, 1),  # with ties
    )
    scored = read_scores(tmp_path / "s.npz")
    request = Request(scored, "against", objects=tmp_path / "o.json")
    found = values(f"pmrp_{variant}", request, "against")
    for direction, value in plain_pmrp(scored.i2t, owner, tags, variant, "against", 50).items():
        assert found[f"{direction}_pmrp"] == pytest.approx(value)


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
def test_ndcg_of_graded_pairs(tmp_path, tie_rule):
    random = np.random.default_rng(4)
    grades = random.integers(0, 4, (IMAGES, CAPTIONS)) * (random.random((IMAGES, CAPTIONS)) < 0.3)
    images, captions = np.nonzero(grades)
    path = write(
        tmp_path / "s.npz",
        scores=scores_with_ties(),
        right_images=images,
        right_captions=captions,
        right_grades=grades[images, captions],
    )
    found = values("ndcg", Request(read_scores(path), tie_rule), tie_rule)
    for direction, rows, gains in (
        ("i2t", scores_with_ties(), grades),
        ("t2i", scores_with_ties().T, grades.T),
    ):
        expected = []
        for row, gain in zip(rows, gains, strict=True):
            if not gain.any():
                continue
            ends = []
            for sign in {"against": [1], "favour": [-1], "average": [1, -1]}[tie_rule]:
                order = sorted(range(len(row)), key=lambda place: (-row[place], sign * gain[place]))
                dcg = sum(gain[place] / np.log2(2 + position) for position, place in enumerate(order))
                ideal = sum(each / np.log2(2 + position) for position, each in enumerate(sorted(gain)[::-1]))
                ends.append(dcg / ideal)
            expected.append(np.mean(ends))
        assert found[f"{direction}_ndcg"] == pytest.approx(100 * np.mean(expected))


def test_whole_lists_are_counted_as_their_scores_and_cut_ones_refused(tmp_path, monkeypatch):
    scores = np.random.default_rng(7).normal(size=(IMAGES, CAPTIONS))
    lists = {"i2t": np.argsort(-scores, axis=1), "t2i": np.argsort(-scores.T, axis=1)}
    whole = read_scores(write(tmp_path / "w.npz", **lists))
    matrix = read_scores(write(tmp_path / "m.npz", scores=scores))
    assert values("coco_1k", Request(whole)) == values("coco_1k", Request(matrix))
    path = write(tmp_path / "c.npz", i2t=lists["i2t"][:, :8], t2i=lists["t2i"])
    with pytest.raises(UserError, match=r"the lists of i2t hold 8 of 30 items.*a cut list undercounts"):
        read_scores(path)
    cut = Request(read_scores(path, allow_cut=True), quirks=frozenset(["cut_lists"]))
    found = values("coco_1k", cut)
    monkeypatch.setattr("engine.protocols.protocols.CUT", 8)
    again = values("coco_1k", Request(matrix, quirks=frozenset(["cut_lists"])))
    for k in (1, 5, 10):
        hits = []
        for image, listed in enumerate(lists["i2t"][:, :8]):
            in_fold = [caption for caption in listed if OWNER[caption] // 2 == image // 2]
            hits.append(any(OWNER[caption] == image for caption in in_fold[:k]))
        assert found[f"i2t_r{k}"] == again[f"i2t_r{k}"] == pytest.approx(100 * np.mean(hits))
        assert found[f"i2t_r{k}"] <= values("coco_1k", Request(matrix))[f"i2t_r{k}"]


def test_every_convention_side_by_side(scored):
    rows = {row.convention: row for row in conventions(scored)}
    scores = scores_with_ties()
    hits = {rule: [] for rule in ("against", "favour", "lower index")}
    shares = []
    for image, row in enumerate(scores):
        right = image == OWNER
        hits["against"].append(rank(row, right, right | True) < 1)
        hits["favour"].append(rank(row, right, right | True, rivals_first=False) < 1)
        order = sorted(range(CAPTIONS), key=lambda place: (-row[place], place))
        hits["lower index"].append(bool(right[order[0]]))
        shares.append(np.mean([place in order[:5] for place in np.flatnonzero(right)]))
    for rule, found in hits.items():
        assert rows[f"one list, ties {rule}"].recalls["i2t_r1"] == pytest.approx(100 * np.mean(found))
    recall = next(row for name, row in rows.items() if "captions as recall" in name)
    assert recall.recalls["i2t_r5"] == pytest.approx(100 * np.mean(shares))
    folds = rows["five folds, ties against"]
    assert folds.recalls["i2t_r5"] == pytest.approx(values("coco_1k", Request(scored))["i2t_r5"])
    six_times = next(row for name, row in rows.items() if "multiplies the sum by six" in name)
    assert six_times.total == pytest.approx(6 * folds.total)
    shifted = next(row for name, row in rows.items() if "shifted" in name)
    assert shifted.total == pytest.approx(2 * sum(folds.recalls[f"i2t_r{k}"] for k in (1, 5, 10)))
    assert "favour" in "\n".join(format_rows(list(rows.values())))


def test_the_stamp_names_every_choice(scored):
    [found] = measure_protocols(Request(scored), ["coco_1k"], resamples=20, seed=1)
    entry = found.as_dict()
    assert entry["protocol"]["folds"] == 5 and entry["protocol"]["tie_rule"] == "against"
    assert (
        entry["protocol"]["queries"] == {"i2t": IMAGES, "t2i": CAPTIONS} and entry["protocol"]["quirks"] == []
    )
    assert entry["metrics"]["rsum"] == pytest.approx(
        sum(entry["metrics"][f"{side}_r{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10))
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scores": np.ones((3, 4))}, "scores of float64 \\[3, 4\\] for 10 images and 30 captions"),
        ({"scores": np.full((IMAGES, CAPTIONS), np.nan)}, "scores: row 1 holds NaN or infinity"),
        (
            {"image": np.ones((IMAGES, 3)), "text": np.ones((CAPTIONS, 4))},
            "image \\[10, 3\\], text \\[30, 4\\]",
        ),
        (
            {"i2t": np.zeros((IMAGES, 2), int), "t2i": np.zeros((CAPTIONS, 2), int)},
            "i2t: row 1 lists an item twice",
        ),
        (
            {"i2t": np.full((IMAGES, 1), 99), "t2i": np.zeros((CAPTIONS, 1), int)},
            "expected places from 0 to 29",
        ),
        ({}, "no scores: expected image_ids"),
        (
            {"scores": scores_with_ties(), "caption_image_ids": ["x"] * CAPTIONS},
            "30 are not in image_ids, such as 'x'",
        ),
        ({"scores": scores_with_ties(), "image_ids": [NAMES[0]] * IMAGES}, "stands twice"),
        ({"scores": scores_with_ties(), "caption_ids": ["1"]}, "1 caption_ids for 30 captions"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        read_scores(write(tmp_path / "s.npz", **arrays))
    assert "\n" not in str(error.value)


def test_captions_in_another_order_are_named(tmp_path, cxc_folder):
    folder = cxc_folder[0]
    turned = write(
        tmp_path / "s.npz", scores=scores_with_ties(), caption_image_ids=[NAMES[o] for o in OWNER[::-1]]
    )
    with pytest.raises(
        UserError, match="caption 1 belongs to picture 1009, COCO's .* to 1000: scores of another"
    ):
        count_protocols(Request(read_scores(turned), data=folder), ["cxc"])[0]
    named = write(
        tmp_path / "n.npz",
        scores=scores_with_ties()[:, ::-1],
        caption_image_ids=[NAMES[o] for o in OWNER[::-1]],
        caption_ids=[str(number) for number in CAPTION_NUMBERS[::-1]],
    )
    plain = read_scores(write(tmp_path / "p.npz", scores=scores_with_ties()))
    assert values("cxc", Request(read_scores(named), data=folder)) == values(
        "cxc", Request(plain, data=folder)
    )


def test_relevance_grades_are_asked_for(scored):
    with pytest.raises(UserError, match="have no grades"):
        count_protocols(Request(scored), ["ndcg"])[0]
    assert Relevance.of((1, 1), [0], [0]).grades is None
