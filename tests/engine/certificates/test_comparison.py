"""Differences are paired, tests are those of loops, and what cannot be compared is refused in one line."""

import itertools
import json

import numpy as np
import pytest

from config.errors import UserError
from engine.certificates.comparison import (
    compare,
    entries_of,
    holm,
    precision_note,
    read_result,
    sign_flip,
)
from engine.certificates.sides import Side
from engine.certificates.stored import RANKS_FILE, read_ranks, write_ranks
from engine.ranking.counter import TiedRanks
from engine.ranking.metrics import summarize

IMAGES = 60


def store(folder, name, seed=1, quality=0.0, order=1, luck=0, **protocol):
    """Write a result of `IMAGES` images with two captions each; `quality` lowers all ranks.

    It lies in `folder`/eval_test, as an evaluation's does, or in `folder` itself if that is a floor's.
    """
    folder = folder if folder.name.startswith("floor") else folder / "eval_test"
    folder.mkdir(parents=True)
    hard = np.random.default_rng(0).normal(size=IMAGES)
    random = np.random.default_rng([seed, luck])
    sides = {}
    for prefix, owner in (("i2t_", np.arange(IMAGES)), ("t2i_", np.repeat(np.arange(IMAGES), 2))):
        ranks = np.exp(2 * hard[owner] + random.normal(size=len(owner)) + 1.5 - quality).astype(int)
        size = len(owner)
        sides[prefix] = Side.of(
            TiedRanks(ranks, ranks), owner, np.zeros(size, int), np.ones(size, int), np.full(size, IMAGES)
        )
    metrics = summarize(*(side.against for side in sides.values()))
    base = {"split": "test", "images": IMAGES, "folds": 1, "tie_rule": "against"}
    config = {"MODEL": {"NAME": name}, "MISC": {"SEED": seed}, "OUTPUT": {"SAVE_NAME": f"{name}_seed{seed}"}}
    content = {"metrics": metrics, "protocol": base | protocol, "config": config}
    (folder / "result.json").write_text(json.dumps(content))
    images = [f"{place}.jpg" for place in range(IMAGES)][::order]
    write_ranks(folder / RANKS_FILE, sides, "against", {"images": images})
    return folder


def compared(*folders, **options):
    return compare(entries_of([read_result(folder) for folder in folders]), **options)


def test_stored_ranks_come_back(tmp_path):
    found = read_ranks(store(tmp_path / "a", "a") / RANKS_FILE)
    again = read_ranks(store(tmp_path / "b", "a") / RANKS_FILE)
    assert found.tie_rule == "against" and found.digests == again.digests
    for prefix, side in found.sides.items():
        assert side.recalls == (1, 5, 10) and side.median
        np.testing.assert_array_equal(side.against, again.sides[prefix].against)


def test_a_difference_is_that_of_the_values_and_a_real_one_is_shown(tmp_path):
    folders = store(tmp_path / "a", "good", quality=2.0), store(tmp_path / "b", "bad")
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in folders]
    for each in compared(*folders):
        assert each.value == pytest.approx(metrics[0][each.metric] - metrics[1][each.metric])
        assert each.interval.low < each.value < each.interval.high
        assert each.p <= each.adjusted
        if each.metric == "rsum":
            assert each.shown and each.sentence().startswith("good_seed1 is above bad_seed1 on rsum: +")


def test_the_same_ranks_are_not_distinguishable(tmp_path):
    found = compared(store(tmp_path / "a", "x"), store(tmp_path / "b", "y"), metrics=["i2t_r1"])
    assert found[0].value == 0 and found[0].p == 1 and not found[0].shown
    assert (
        found[0]
        .sentence()
        .startswith("x_seed1 is not distinguishable from y_seed1 on image to text R@1: +0.0")
    )


def test_pairing_narrows_the_interval(tmp_path):
    one, other = store(tmp_path / "a", "x", luck=1), store(tmp_path / "b", "y", luck=2)
    [paired] = compared(one, other, metrics=["rsum"])
    from engine.certificates.sides import certify

    alone = [
        certify(read_ranks(folder / RANKS_FILE).sides, "against")["rsum"].interval for folder in (one, other)
    ]
    unpaired = sum((each.high - each.low) ** 2 for each in alone) ** 0.5
    assert paired.interval.high - paired.interval.low < 0.8 * unpaired


def test_seeds_of_a_recipe_are_one_entry_and_vary_apart(tmp_path):
    folders = [store(tmp_path / f"a{seed}", "a", seed=seed) for seed in (1, 2, 3)]
    folders += [store(tmp_path / "b", "b", seed=9)]
    entries = entries_of([read_result(folder) for folder in folders])
    assert [(entry.name, len(entry.results)) for entry in entries] == [("a", 3), ("b_seed9", 1)]
    [found] = compare(entries, metrics=["mean_recall"])
    values = entries[0].values("mean_recall")
    assert found.seeds == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert found.value == pytest.approx(values.mean() - entries[1].values("mean_recall")[0])


def test_two_checkpoints_of_one_seed_are_no_seeds(tmp_path):
    folders = [store(tmp_path / "best", "a", luck=1), store(tmp_path / "last", "a", luck=2)]
    entries = entries_of([read_result(folder) for folder in folders])
    assert [entry.name for entry in entries] == [str(folder) for folder in folders]


def test_a_floor_of_the_same_task_file_is_no_seed(tmp_path):
    folders = [store(tmp_path / "floor", "a", seed=1), store(tmp_path / "run", "a", seed=2)]
    for folder, model in zip(folders, ("bag of words", "vsepp"), strict=True):
        content = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(content | {"checkpoint": {"model": model}}))
    entries = entries_of([read_result(folder) for folder in folders])
    assert [len(entry.results) for entry in entries] == [1, 1]


def test_a_result_that_is_not_the_evaluation_is_named_by_its_folder(tmp_path):
    folders = [store(tmp_path / "run", "a"), store(tmp_path / "run" / "floor_test", "b")]
    names = [entry.name for entry in entries_of([read_result(folder) for folder in folders])]
    assert names == ["a_seed1", "b_seed1 (floor_test)"]


def test_other_precisions_are_said(tmp_path):
    results = [
        read_result(store(tmp_path / name, name, **protocol))
        for name, protocol in (("a", {}), ("b", {}), ("c", {"precision": "bfloat16"}))
    ]
    assert precision_note(entries_of(results[:2])) == ""
    note = precision_note(entries_of(results))
    assert note.startswith("note: a_seed1 in float32, b_seed1 in float32, c_seed1 in bfloat16: ")


def test_sign_flips_approach_all_of_them():
    added = np.random.default_rng(0).normal(0.4, 1, (9, 2))
    totals = np.array([np.array(signs) @ added for signs in itertools.product((-1, 1), repeat=9)])
    exact = (np.abs(totals) >= np.abs(added.sum(axis=0)) - 1e-12).mean(axis=0)
    np.testing.assert_allclose(sign_flip(added, 20_000), exact, atol=0.02)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, 'split is "dev" in its protocol, "test" in that of'),
        ({"folds": 5}, "folds is 5 in its protocol, 1 in that of"),
        ({"tie_rule": "favour"}, "tie_rule is"),
        ({"order": -1}, "the same images in another order than"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        compared(store(tmp_path / "a", "a"), store(tmp_path / "b", "b", **options))


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "other"])
def test_ranks_that_are_none_are_named(tmp_path, damage):
    folder = store(tmp_path / "a", "a")
    path = folder / RANKS_FILE
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        np.savez(path, x=np.ones(3))
    else:
        path.write_bytes(b"no ranks" if damage == "text" else path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"ranks\.npz.*evaluate again") as error:
        read_result(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("metrics", 1), ("metrics", {"rsum": "high"}), ("metrics", {"rsum": True})),
        *(("protocol", []), ("config", {"MODEL": float("nan")}), ("config", {"OUTPUT": None})),
        ("config", {"MISC": {"SEED": [1]}}),
        *(("checkpoint", []), ("checkpoint", {"members": 3}), ("checkpoint", {"members": [None]})),
    ],
)
def test_a_result_that_is_none_is_named(tmp_path, key, value):
    path = store(tmp_path / "a", "a") / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=r"result\.json: not a result of .*evaluate again"):
        read_result(path)


def test_ranks_of_other_queries_of_the_same_images_are_refused(tmp_path):
    first, other = store(tmp_path / "a", "a"), store(tmp_path / "b", "b")
    with np.load(other / RANKS_FILE) as kept:
        arrays = dict(kept)
    arrays["t2i_owner"] = np.roll(arrays["t2i_owner"], 1)
    np.savez(other / RANKS_FILE, **arrays)
    with pytest.raises(
        UserError, match="b/eval_test: other captions are queries, or in other folds, than in"
    ):
        compared(first, other)
