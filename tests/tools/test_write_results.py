"""Tables of results come from the result files alone, and a page that differs is found."""

import importlib.util
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


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location("write_results", TOOLS / "write_results.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


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
    results = {"a": [result("a", 1, 10.0), result("a", 2, 12.0)]}
    assert tool.with_tables(PAGE, RECIPES, results) == (
        "before\n<!-- results: a b -->\n"
        "| model | seed | image to text R@1 | mean recall |\n|---|---|---|---|\n"
        "| A | 1 | 10.0 ± 1.5 (tie 10.0–14.0, chance 0.5) | 10.0 ± 1.5 (tie 10.0–14.0, chance 0.5) |\n"
        "|  | 2 | 12.0 ± 1.5 (tie 12.0–16.0, chance 0.5) | 12.0 ± 1.5 (tie 12.0–16.0, chance 0.5) |\n"
        "| | mean of 2 | **11.0**, sd 1.4 | **11.0**, sd 1.4 |\n<!-- end of results -->\nafter\n"
    )


def test_a_recipe_that_does_not_exist_is_named(tool):
    with pytest.raises(UserError, match="no recipe 'b'"):
        tool.with_tables(PAGE, {"a": RECIPES["a"]}, {})


def test_the_page_of_the_project_is_that_of_its_result_files(tool):
    page = tool.PAGE.read_text(encoding="utf-8")
    import json

    recipes = json.loads((tool.RESULTS / "recipes.json").read_text(encoding="utf-8"))
    assert tool.with_tables(page, recipes, tool.read_results()) == page
