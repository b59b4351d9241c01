"""Write the tables of docs/results.md and README.md from the result files in docs/results.

    python tools/write_results.py
    python tools/write_results.py --check

A table stands between the lines `<!-- results: RECIPE ... -->` and `<!-- end of results -->`, and has a row
for each seed of the recipes that the first line names; after `<!-- means: RECIPE ... -->` it has a row for
each recipe. With --check nothing is written, and the exit code is 1 if a table differs from its result files.
tools/measure_results.py makes these files.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole

ROOT = Path(__file__).resolve().parent.parent
PAGES, RESULTS = (ROOT / "docs" / "results.md", ROOT / "README.md"), ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- (results|means): ([\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def main() -> int:
    """Parse the command line, then write the tables or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a table differs; write nothing")
    report_errors_on_one_line(parser)
    check = parser.parse_args().check
    recipes = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))
    results, different = read_results(), 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = with_tables(before, recipes, results)
        if not check:
            write_whole(page, after)
            print(f"written: {page}")
        elif after != before:
            print(f"{page.name} differs from its result files: run make results", file=sys.stderr)
            different = 1
    return different


def read_results() -> dict[str, list[dict]]:
    """Return the kept results of each recipe, by seed."""
    found: dict[str, list[dict]] = {}
    for path in sorted(RESULTS.glob("*_seed*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(content["recipe"], []).append(content)
    return {name: sorted(results, key=lambda each: each["seed"]) for name, results in found.items()}


def with_tables(page: str, recipes: dict[str, dict], results: dict[str, list[dict]]) -> str:
    """Return `page` with every table anew; raise UserError for a recipe that does not exist."""

    def write(block: re.Match) -> str:
        names = block[3].split()
        unknown = [name for name in names if name not in recipes]
        if unknown:
            raise UserError(f"{block[1].strip()}: no recipe {unknown[0]!r} in docs/results/recipes.json")
        return f"{block[1]}{table(FORMS[block[2]], names, recipes, results)}\n{block[4]}"

    return BLOCK.sub(write, page)


@dataclass(frozen=True)
class Form:
    """What a table has besides its metrics: the `first` cells and the `last` ones of its head, and its rows.

    `rows` returns the lines of a recipe from its entry, its seeds' results, and the names of the metrics.
    """

    first: str
    last: str
    rows: Callable[[dict, list[dict], list[str]], list[str]]


def table(form: Form, names: list[str], recipes: dict[str, dict], results: dict[str, list[dict]]) -> str:
    """Return a table of those recipes among `names` that have results, with the metrics of the first."""
    from engine.certificates.stored import title_of

    measured = [name for name in names if name in results]
    if not measured:
        return "Not measured yet."
    metrics = recipes[measured[0]]["metrics"]
    head = f"|{form.first} | {' | '.join(title_of(metric) for metric in metrics)} |{form.last}"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for name in measured:
        lines += form.rows(recipes[name], results[name], metrics)
    return "\n".join(lines)


def rows_of_seeds(recipe: dict, results: list[dict], metrics: list[str]) -> list[str]:
    """Return a row for each seed, and one for the mean of several.

    The last column is the processor time of the training, where it was measured.
    """
    from engine.certificates.sides import describe
    from engine.certificates.stored import certified_of

    lines = []
    for number, content in enumerate(results):
        certified = certified_of(content)
        cells = [*(describe(certified[metric]) for metric in metrics), processor_minutes([content])]
        seed = "" if recipe.get("floor") else content["seed"]
        lines.append(f"| {recipe['title'] if not number else ''} | {seed} | {' | '.join(cells)} |")
    if len(results) > 1:
        cells = []
        for metric in metrics:
            values = [content["metrics"][metric] for content in results]
            cells.append(f"**{statistics.mean(values):.1f}**, sd {statistics.stdev(values):.1f}")
        cells.append(processor_minutes(results))
        lines.append(f"| | mean of {len(results)} | {' | '.join(cells)} |")
    return lines


def row_of_mean(recipe: dict, results: list[dict], metrics: list[str]) -> list[str]:
    """Return one row: the mean of the seeds, and of half of their intervals.

    The interval of a mean over seeds is at most about as wide as the mean of the seeds' intervals.
    """
    from engine.certificates.stored import certified_of

    certified = [certified_of(content) for content in results]
    cells = []
    for metric in metrics:
        value = statistics.mean(each[metric].value for each in certified)
        ends = [each[metric].interval for each in certified]
        half = statistics.mean((interval.high - interval.low) / 2 for interval in ends)
        cells.append(f"{value:.1f} ± {half:.1f}")
    seeds = "" if recipe.get("floor") else len(results)
    return [f"| {recipe['title']} | {seeds} | {' | '.join(cells)} |"]


FORMS = {
    "results": Form(" model | seed", " processor minutes |", rows_of_seeds),
    "means": Form(" | seeds", "", row_of_mean),
}


def processor_minutes(results: list[dict]) -> str:
    """Return the mean processor time of the trainings, empty unless all were timed."""
    minutes = [content.get("training", {}).get("processor_minutes") for content in results]
    return "" if None in minutes else f"{statistics.mean(minutes):.1f}"


if __name__ == "__main__":
    run(main)
