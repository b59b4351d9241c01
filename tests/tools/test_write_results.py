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
FINISHED = {
    **{"state": "finished", "step": 2, "steps": 2, "best_score": None},
    **{"updated": "2026-01-01T00:00:00+00:00", "host": "a", "pid": 1},
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
    """Return a function from recipes to a bench, and its commands, which write what real ones would."""
    module, commands = load("measure_results"), []
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")

    def tool(script, *words):
        commands.append([script, *words])
        if script == "train_retrieval":
            settings = dict(word.split("=", 1) for word in words if "=" in word)
            folder = Path(settings["OUTPUT.CHECKPOINT_DIR"]) / settings["OUTPUT.SAVE_NAME"]
            (folder / "last").mkdir(parents=True, exist_ok=True)
            (folder / "status.json").write_text(json.dumps(FINISHED))
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
        folder = folder or Path(words[1]).parent / words[-1].replace("EVAL.SPLIT=", "eval_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(content))

    monkeypatch.setattr(module, "tool", tool)
    return lambda recipes: module.Bench(recipes, Path("data"), tmp_path / "work"), commands


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


def test_the_pages_of_the_project_are_those_of_its_result_files(tool):
    recipes = json.loads((tool.RESULTS / "recipes.json").read_text(encoding="utf-8"))
    for path in tool.PAGES:
        page = path.read_text(encoding="utf-8")
        assert tool.with_tables(page, recipes, tool.read_results()) == page
        assert tool.BLOCK.search(page), path


def test_a_row_for_the_mean_of_each_recipe(tool):
    results = {"a": [result("a", 1, 10.0), result("a", 2, 12.0)], "b": [result("b", 1, 5.0)]}
    page = "<!-- means: a b -->\nold\n<!-- end of results -->"
    assert tool.with_tables(page, RECIPES | {"b": RECIPES["a"] | {"floor": True}}, results) == (
        "<!-- means: a b -->\n| | seeds | image to text R@1 | mean recall |\n|---|---|---|---|\n"
        "| A | 2 | 11.0 ± 1.5 | 11.0 ± 1.5 |\n| A |  | 5.0 ± 1.5 | 5.0 ± 1.5 |\n<!-- end of results -->"
    )


def test_a_page_that_differs_is_told_and_left_alone(tool, monkeypatch, tmp_path, capsys):
    (tmp_path / "page.md").write_text("<!-- results: rsicd_vsepp -->\nold\n<!-- end of results -->\n")
    before = (tmp_path / "page.md").read_text()
    monkeypatch.setattr(tool, "PAGES", (tmp_path / "page.md",))
    monkeypatch.setattr(sys, "argv", ["write_results.py", "--check"])
    assert tool.main() == 1 and (tmp_path / "page.md").read_text() == before
    assert capsys.readouterr().err == "page.md differs from its result files: run make results\n"
    monkeypatch.setattr(sys, "argv", ["write_results.py"])
    assert tool.main() == 0 and "| VSE++ (" in (tmp_path / "page.md").read_text()
    monkeypatch.setattr(sys, "argv", ["write_results.py", "--check"])
    assert tool.main() == 0


def test_a_mean_of_minutes_needs_those_of_every_seed(tool):
    timed, untimed = {"training": {"processor_minutes": 2.0}}, {}
    assert tool.processor_minutes([timed, timed]) == "2.0"
    assert tool.processor_minutes([timed, untimed]) == ""


PAIRED = {"config": "c.yaml", "data": "d"}


def kept(folder, name):
    return json.loads((folder / "kept" / f"{name}_seed3.json").read_text())


def test_a_seed_is_trained_and_evaluated_once_and_its_minutes_are_kept(measuring, tmp_path):
    bench_of, commands = measuring
    recipe = PAIRED | {"settings": ["DATASET.TAG_FILE={data}/tags/{split}.txt"]}
    for _ in range(2):
        bench_of({"a": recipe}).measure("a", 3)
    assert [words[0] for words in commands] == ["train_retrieval", "eval_retrieval"]
    assert "DATASET.TAG_FILE=data/tags/{split}.txt" in commands[0] and "MISC.SEED=3" in commands[0]
    found = kept(tmp_path, "a")
    assert found["metrics"]["i2t_r1"] == 10.0 and found["checkpoint"] == {"model": "vsepp", "step": 3}
    assert found["training"].keys() == {"minutes", "processor_minutes"}


def test_a_training_that_was_stopped_goes_on_and_is_not_timed(measuring, tmp_path):
    bench_of, commands = measuring
    (tmp_path / "work" / "a_seed3" / "last").mkdir(parents=True)
    bench_of({"a": PAIRED}).measure("a", 3)
    assert commands[0][-1] == "--resume" and "training" not in kept(tmp_path, "a")


def test_a_second_stage_starts_from_the_first_which_is_trained_if_it_is_not_there(measuring, tmp_path):
    bench_of, commands = measuring
    bench = bench_of({"a": PAIRED, "b": PAIRED | {"starts_from": "a"}, "c": PAIRED | {"starts_from": "a"}})
    bench.measure("b", 3)
    bench.measure("c", 3)
    names = [word for words in commands for word in words if word.startswith("OUTPUT.SAVE_NAME=")]
    assert names == [f"OUTPUT.SAVE_NAME={name}_seed3" for name in "abc"]
    assert f"PRETRAINED.DIR={tmp_path / 'work' / 'a_seed3' / 'best'}" in commands[1]


def test_lists_are_re_ranked_with_the_weight_that_is_best_on_dev(measuring, tmp_path):
    bench_of, commands = measuring
    lists = {"lists_of": "a", "ranked_by": "c", "dual_weight": "dev"}
    bench_of({"a": PAIRED, "b": lists, "c": PAIRED}).measure("b", 3)
    assert [words[0] for words in commands] == ["train_retrieval"] * 2 + ["eval_retrieval"] * 2
    assert "EVAL.SPLIT=dev" in commands[2] and "EVAL.RERANK_DUAL_WEIGHT=5" in commands[3]
    found = kept(tmp_path, "b")
    assert found["metrics"]["i2t_r1"] == 20.0 and found["checkpoint"] == {"model": "oscar", "step": 4}
    assert found["lists"]["dual_weight"] == 5 and found["lists"]["checkpoint"] == {
        "model": "vsepp",
        "step": 3,
    }


def test_an_ensemble_is_evaluated_from_the_runs_of_its_members(measuring, tmp_path):
    bench_of, commands = measuring
    bench = bench_of({"a": PAIRED, "b": PAIRED, "both": {"members": ["a", "b"]}})
    bench.measure("a", 3)
    bench.measure("both", 3)
    assert [words[0] for words in commands[2:]] == ["train_retrieval", "eval_retrieval"]
    runs = [str(tmp_path / "work" / f"{name}_seed3" / "best") for name in "ab"]
    out = str(tmp_path / "work" / "both_seed3")
    assert commands[3] == ["eval_retrieval", "--checkpoints", *runs, "--out", out, "EVAL.SPLIT=test"]
    assert kept(tmp_path, "both")["metrics"]["i2t_r1"] == 10.0


def test_the_minutes_of_an_ensemble_are_those_of_all_members(measuring, tmp_path):
    bench_of, _ = measuring
    bench = bench_of({"a": PAIRED, "b": PAIRED, "both": {"members": ["a", "b"]}, "again": {"members": ["a"]}})
    for name, minutes in (("a", 2.5), ("b", 4.0)):
        timed = {"minutes": minutes, "processor_minutes": minutes / 2}
        (bench.run_of(name, 3) / "minutes.json").write_text(json.dumps(timed))
    bench.measure("both", 3)
    assert kept(tmp_path, "both")["training"] == {"minutes": 6.5, "processor_minutes": 3.2}
    (bench.run_of("a", 3) / "minutes.json").unlink()
    bench.measure("again", 3)
    assert "training" not in kept(tmp_path, "again")


def test_what_is_tried_is_evaluated_on_dev_alone(measuring):
    bench_of, commands = measuring
    tried = {"split": "dev"}
    bench = bench_of({"a": PAIRED | tried, "b": PAIRED, "both": {"members": ["a", "b"]} | tried})
    bench.measure("a", 3)
    bench.measure("both", 3)
    evaluations = [words for words in commands if words[0] == "eval_retrieval"]
    assert len(evaluations) == 2 and all(words[-1] == "EVAL.SPLIT=dev" for words in evaluations)


def test_members_of_an_ensemble_are_kept_without_their_places():
    members = [{"model": "vse", "step": 3, "sha256": "s", "folder": "here", "weight": 0.5}]
    identity = load("measure_results").identity
    assert identity({"members": members}) == {"members": [{"model": "vse", "step": 3, "sha256": "s"}]}


def test_every_recipe_of_the_project_names_files_and_recipes_that_exist(tool):
    recipes = json.loads((tool.RESULTS / "recipes.json").read_text(encoding="utf-8"))
    for name, recipe in recipes.items():
        others = [recipe[key] for key in ("starts_from", "lists_of", "ranked_by") if key in recipe]
        assert set(others + recipe.get("members", [])) <= recipes.keys(), name
        without_task_file = "members" in recipe or "lists_of" in recipe
        assert without_task_file or (TOOLS.parent / recipe["config"]).is_file(), name
