"""Recalls, R-precision and MAP@R are those of eccv-caption and pytorch-metric-learning, with ties.

The golden numbers are of the packages themselves (make_protocol_golden.py). Where they are installed, they
run here too.
"""

from pathlib import Path

import numpy as np
import pytest

from datasets.relevance import Relevance
from engine.certificates.sides import certify
from engine.protocols.protocols import Request, count_protocols
from engine.protocols.scored import Scored
from engine.ranking.precisions import precisions_of_rows
from tests.parity.make_protocol_golden import CAPTIONS, IMAGES, metric_learning, ordered, small_case

GOLDEN = Path(__file__).parent / "golden" / "protocols.npz"
COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval_eccv"


def scored_case() -> Scored:
    scores, right = small_case()
    names = [f"{place}.jpg" for place in range(IMAGES)]
    relevance = Relevance.of(right.shape, *np.nonzero(right))
    return Scored(Path("x.npz"), names, np.arange(CAPTIONS) // 3, relevance, scores, scores.T)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("tie_rule", ["against", "favour"])
def test_recalls_in_one_list_and_in_folds(golden, tie_rule):
    request = Request(scored_case(), tie_rule)
    for protocol, name in (("one_list", ""), ("coco_1k", "_folds")):
        found = certify(count_protocols(request, [protocol])[0].sides, tie_rule, resamples=2)
        for direction in ("i2t", "t2i"):
            expected = golden[f"{direction}_{tie_rule}{name}"]
            expected = expected if name else expected[3:6]
            values = [found[f"{direction}_r{k}"].value for k in (1, 5, 10)]
            assert values == pytest.approx(100 * expected)


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
def test_precisions_at_r(golden, tie_rule):
    scores, right = small_case()
    for direction, rows, hits in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        asked = hits.any(axis=1)
        relevance = Relevance.of((asked.sum(), hits.shape[1]), *np.nonzero(hits[asked]))
        average, precision = precisions_of_rows(rows[asked], relevance, tie_rule)
        rules = ["against", "favour"] if tie_rule == "average" else [tie_rule]
        expected = np.mean([golden[f"{direction}_{rule}"] for rule in rules], axis=0)
        assert [precision.mean(), average.mean()] == pytest.approx(expected[1:3])  # eccv-caption
        assert [precision.mean(), average.mean()] == pytest.approx(expected[6:8])  # pytorch-metric-learning


def test_the_packages_still_say_so(golden):
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    scores, right = small_case()
    found = metric_learning(ordered(scores, right, True), right)
    assert found == pytest.approx(golden["i2t_against"][6:8])


def test_eccv_caption_on_cocos_whole_5k(tmp_path):
    package = pytest.importorskip("eccv_caption")
    if not COCO.is_dir():
        pytest.skip(f"no {COCO}: COCO's names and positives")
    from tests.engine.protocols.coco_case import coco_scores

    scored, names = coco_scores(COCO, tmp_path)
    request = Request(scored, "against", frozenset(["absent_positives"]), COCO)
    counted = certify(count_protocols(request, ["eccv"])[0].sides, "against", resamples=2)
    image_numbers, caption_numbers = names
    i2t = {
        int(image_numbers[row]): caption_numbers[np.argsort(-scored.i2t[row], kind="stable")].tolist()
        for row in range(5000)
    }
    t2i = {
        int(caption_numbers[row]): image_numbers[np.argsort(-scored.t2i[row], kind="stable")].tolist()
        for row in range(25000)
    }
    found = package.Metrics().compute_all_metrics(
        i2t,
        t2i,
        target_metrics=("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "coco_5k_r1", "cxc_r1"),
        Ks=(1,),
    )
    for theirs, ours in (
        ("eccv_map_at_r", "map_at_r"),
        ("eccv_rprecision", "r_precision"),
        ("eccv_r1", "r1"),
    ):
        for direction in ("i2t", "t2i"):
            assert counted[f"{direction}_{ours}"].value == pytest.approx(100 * found[theirs][direction])
