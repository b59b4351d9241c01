"""Results are measured seed by seed, tables come from them alone, and a page that differs is found."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from config.errors import UserError

TOOLS = Path(__file__).resolve().parents[2] / "tools"
RECIPES = {
    "a": {"title": "A", "metrics": ["i2t_r1", "mean_recall"]},
    "b": {"title": "B", "metrics": ["i2t_r1"]},
}
PAGE = "before\n<!-- results: a b -->\nold\n<!-- end of results -->\nafter\n"


def load(name):
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


@pytest.fixture(scope="module")
def tool():
    return load("write_results")


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """Return tools/measure_results.py and its commands, each of which writes what a real one would."""
    module, commands = load("measure_results"), []
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")

    def tool(script, *words):
        commands.append([script, *words])
        if script == "train_retrieval":
            settings = dict(word.split("=", 1) for word in words if "=" in word)
            folder = Path(settings["OUTPUT.CHECKPOINT_DIR"]) / settings["OUTPUT.SAVE_NAME"]
            (folder / "last").mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text("")
            return
        folder = Path(words[words.index("--out") + 1]) if "--out" in words else None
        content = result("a", 1, 10.0) | {"checkpoint": {"model": "vsepp", "step": 3, "folder": "here"}}
        if folder:
            weights = ((0, 50.0), (5, 70.0), (10, 70.0))
            content["rerank"] = {
                **result("a", 1, 20.0),
                "checkpoint": {"model": "oscar", "step": 4, "folder": "there"},
                "k": 20,
                "pairs_scored": 30,
                "all_pairs": 40,
                "dual_weight": 5,
                "weighted": [{"dual_weight": weight, "metrics": {"rsum": rsum}} for weight, rsum in weights],
            }
        folder = folder or Path(words[1]).parent / "eval_test"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(content))

    monkeypatch.setattr(module, "tool", tool)
    return module, commands


def result(recipe, seed, value):
    entry = {
        "low": value - 1,
        "high": value + 2,
        "method": "bca",
        "tie": [value, value + 4],
        "tied_queries": 3,
    }
    return {
        "recipe": recipe,
        "seed": seed,
        "metrics": {"i2t_r1": value, "mean_recall": value},
        "certificate": {"metrics": {name: entry | {"chance": 0.5} for name in ("i2t_r1", "mean_recall")}},
    }


def test_a_row_for_each_seed_and_one_for_their_mean(tool):
    results = {"a": [result("a", seed, value) for seed, value in ((1, 10.0), (2, 12.0))]}
    for minutes, content in zip((2.0, 3.0), results["a"], strict=True):
        content["training"] = {"processor_minutes": minutes}
    assert tool.with_tables(PAGE, RECIPES, results) == (
        "before\n<!-- results: a b -->\n"
        "| model | seed | image to text R@1 | mean recall | processor minutes |\n"
        "|---|---|---|---|---|\n"
        "| A | 1 | 10.0 ± 1.5 (tie 10.0–14.0, chance 0.5) | 10.0 ± 1.5 (tie 10.0–14.0, chance 0.5) | 2.0 |\n"
        "|  | 2 | 12.0 ± 1.5 (tie 12.0–16.0, chance 0.5) | 12.0 ± 1.5 (tie 12.0–16.0, chance 0.5) | 3.0 |\n"
        "| | mean of 2 | **11.0**, sd 1.4 | **11.0**, sd 1.4 | 2.5 |\n<!-- end of results -->\nafter\n"
    )


def test_a_recipe_that_does_not_exist_is_named(tool):
    with pytest.raises(UserError, match="no recipe 'b'"):
        tool.with_tables(PAGE, {"a": RECIPES["a"]}, {})


def test_the_page_of_the_project_is_that_of_its_result_files(tool):
    page = tool.PAGE.read_text(encoding="utf-8")
    recipes = json.loads((tool.RESULTS / "recipes.json").read_text(encoding="utf-8"))
    assert tool.with_tables(page, recipes, tool.read_results()) == page


def test_a_mean_of_minutes_needs_those_of_every_seed(tool):
    timed, untimed = {"training": {"processor_minutes": 2.0}}, {}
    assert tool.processor_minutes([timed, timed]) == "2.0"
    assert tool.processor_minutes([timed, untimed]) == ""


def test_a_seed_is_trained_and_evaluated_once_and_its_minutes_are_kept(measuring, tmp_path):
    module, commands = measuring
    recipe = {"config": "c.yaml", "data": "d", "settings": ["DATASET.TAG_FILE={data}/tags/{split}.txt"]}
    for _ in range(2):
        module.measure("a", recipe, 3, Path("data"), tmp_path / "work")
    assert [words[0] for words in commands] == ["train_retrieval", "eval_retrieval"]
    assert "DATASET.TAG_FILE=data/tags/{split}.txt" in commands[0] and "MISC.SEED=3" in commands[0]
    kept = json.loads((tmp_path / "kept" / "a_seed3.json").read_text())
    assert kept["metrics"]["i2t_r1"] == 10.0 and kept["training"].keys() == {"minutes", "processor_minutes"}
    assert kept["checkpoint"] == {"model": "vsepp", "step": 3}


def test_a_training_that_was_stopped_goes_on_and_is_not_timed(measuring, tmp_path):
    module, commands = measuring
    (tmp_path / "work" / "a_seed3" / "last").mkdir(parents=True)
    module.measure("a", {"config": "c.yaml", "data": "d"}, 3, Path("data"), tmp_path / "work")
    assert commands[0][-1] == "--resume"
    assert "training" not in json.loads((tmp_path / "kept" / "a_seed3.json").read_text())


def test_lists_are_re_ranked_with_the_weight_that_is_best_on_dev(measuring, tmp_path):
    module, commands = measuring
    recipe = {"config": "c.yaml", "data": "d", "lists_of": "a_seed{seed}", "dual_weight": "dev"}
    with pytest.raises(UserError, match="a_seed3: no such run"):
        module.measure("b", recipe, 3, Path("data"), tmp_path / "work")
    assert not commands
    module.measure("a", {"config": "c.yaml", "data": "d"}, 3, Path("data"), tmp_path / "work")
    commands.clear()
    module.measure("b", recipe, 3, Path("data"), tmp_path / "work")
    assert "EVAL.SPLIT=dev" in commands[1] and "EVAL.RERANK_DUAL_WEIGHT=5" in commands[2]
    kept = json.loads((tmp_path / "kept" / "b_seed3.json").read_text())
    assert kept["metrics"]["i2t_r1"] == 20.0 and kept["checkpoint"] == {"model": "oscar", "step": 4}
    assert kept["lists"]["dual_weight"] == 5 and kept["lists"]["checkpoint"] == {"model": "vsepp", "step": 3}


def test_an_ensemble_is_evaluated_from_the_runs_of_its_members(measuring, tmp_path):
    module, commands = measuring
    recipe = {"members": ["a", "b"]}
    with pytest.raises(UserError, match="a_seed3: no such run"):
        module.measure("both", recipe, 3, Path("data"), tmp_path / "work")
    for name in "ab":
        module.measure(name, {"config": "c.yaml", "data": "d"}, 3, Path("data"), tmp_path / "work")
    commands.clear()
    module.measure("both", recipe, 3, Path("data"), tmp_path / "work")
    runs = [str(tmp_path / "work" / f"{name}_seed3" / "best") for name in "ab"]
    out = str(tmp_path / "work" / "both_seed3")
    assert commands == [["eval_retrieval", "--checkpoints", *runs, "--out", out]]
    assert (tmp_path / "kept" / "both_seed3.json").is_file()


def test_members_of_an_ensemble_are_kept_without_their_places(measuring):
    module, _ = measuring
    members = [{"model": "vse", "step": 3, "sha256": "s", "folder": "here", "weight": 0.5}]
    assert module.identity({"members": members}) == {"members": [{"model": "vse", "step": 3, "sha256": "s"}]}
