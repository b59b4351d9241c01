"""Recipes are trained, evaluated alone, together and re-ranked by the real tools; results are kept."""

import importlib.util
import json
from pathlib import Path

import pytest

from config.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["OPTIMIZATION.EPOCHS=2", "OPTIMIZATION.BATCH_SIZE=50", "RUNTIME.DEVICE=cpu"]
NARROW = ["MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8"]
SMALL = ["MODEL.BERT_DIM=12", "MODEL.BERT_LAYERS=1", "MODEL.BERT_HEADS=2", "MODEL.BERT_INNER_DIM=24"]
DUAL = {"config": "configs/scenes/vsepp.yaml", "data": "scenes", "settings": SHORT + NARROW}
CROSS = {"config": "configs/scenes/oscar.yaml", "data": "scenes", "settings": SHORT + SMALL}
RECIPES = {
    "dual": DUAL,
    "other": DUAL | {"settings": [*DUAL["settings"], "MODEL.TEXT_POOLING=max"], "split": "dev"},
    "floor": DUAL | {"floor": True},
    "both": {"members": ["dual", "other"]},
    "cross": CROSS,
    "reranked": {"lists_of": "dual", "ranked_by": "cross", "dual_weight": "dev"},
}


@pytest.fixture
def bench(monkeypatch, scenes, run_quickly, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    path = ROOT / "tools" / "measure_results.py"
    spec = importlib.util.spec_from_file_location("measure_results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def tool(script, *words):
        done = run_quickly(script, *words)
        if done.returncode:
            raise UserError(done.stderr)

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(module, "tool", tool)
    return module.Bench(RECIPES, scenes.parent, tmp_path / "work")


def test_all_kinds_of_recipes_are_measured(bench, tmp_path):
    for name in ("reranked", "both", "dual", "other", "floor"):
        bench.measure(name, 3)
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "kept").iterdir()}
    assert sorted(kept) == ["both_seed3", "dual_seed3", "floor_seed3", "other_seed3", "reranked_seed3"]
    for name, content in kept.items():
        assert content["metrics"].keys() >= {"i2t_r1", "mean_recall"}, name
        assert content["certificate"]["metrics"]["mean_recall"].keys() >= {"low", "high", "tie"}, name
    on_dev = {name for name, content in kept.items() if content["protocol"]["split"] == "dev"}
    assert on_dev == {"other_seed3"}
    assert kept["floor_seed3"]["checkpoint"].keys() == {"model", "penalty"}
    lists = kept["reranked_seed3"]["lists"]
    assert lists["checkpoint"] == kept["dual_seed3"]["checkpoint"] and lists["pairs_scored"] > 0
    weights = json.loads((tmp_path / "work" / "reranked_seed3" / "dev" / "result.json").read_text())
    weighted = {one["dual_weight"]: one["metrics"]["rsum"] for one in weights["rerank"]["weighted"]}
    assert weighted[lists["dual_weight"]] == max(weighted.values())
    assert kept["reranked_seed3"]["training"].keys() == {"minutes", "processor_minutes"}
    members = kept["both_seed3"]["checkpoint"]["members"]
    assert members[0] == kept["dual_seed3"]["checkpoint"] and members[1] == kept["other_seed3"]["checkpoint"]
    assert str(tmp_path) not in json.dumps(kept)
