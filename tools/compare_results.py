"""Compare results query by query: paired differences with intervals, tests, and what they show in words.

    python tools/compare_results.py out/a/eval_test out/b/eval_test
    python tools/compare_results.py out/vsepp_seed{1,2,3}/eval_test out/vse_seed{1,2,3}/eval_test
    python tools/compare_results.py out/new/eval_test out/old/eval_test --metrics rsum --fail_below -2

Each folder holds the result.json and ranks.npz of tools/eval_retrieval.py. Results whose configurations
differ in the seed alone are one entry. The first entry is compared with each other one: intervals of 95% by
bootstrap over images, sign-flip permutation tests, and Holm's adjustment over all of them.
With --fail_below D the exit code is 1 if the whole interval of a difference lies below D.
"""

import argparse
import json
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", metavar="FOLDER", help="folders of results, at least two")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="names in result.json (default: all recalls)"
    )
    parser.add_argument(
        "--fail_below", type=float, metavar="D", help="exit with 1 if a difference is surely below D"
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the resamples (default 0)")
    parser.add_argument("--out", metavar="F.json", help="also write the differences as JSON")
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    if arguments.resamples < 100:
        raise UserError(f"--resamples: expected at least 100, got {arguments.resamples}")
    return compare_results(arguments)


def compare_results(arguments: argparse.Namespace) -> int:
    """Print the entries and their differences; return 1 if --fail_below says so."""
    from engine.certificates.stored import title_of
    from engine.certificates.comparison import compare, entries_of, precision_note, read_result

    entries = entries_of([read_result(Path(folder)) for folder in arguments.results])
    if len(entries) < 2:
        raise UserError(
            f"expected results of at least two recipes, got {len(arguments.results)} of {entries[0].name} "
            "alone: seeds of one recipe are one entry"
        )
    found = compare(entries, arguments.metrics, arguments.resamples, arguments.seed)
    note = precision_note(entries)
    if note:
        print(note)
    metrics = list(dict.fromkeys(each.metric for each in found))
    width = max(len(entry.name) for entry in entries) + 2
    for metric in metrics:
        print(f"{title_of(metric)}:")
        for entry in entries:
            values = entry.values(metric)
            seeds = f", {len(values)} seeds, sd {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            print(f"  {entry.name:<{width}}{values.mean():.2f}{seeds}")
        for each in found:
            if each.metric == metric:
                print(f"  {each.sentence()}")
    if arguments.out:
        content = [
            {
                "first": each.first,
                "other": each.other,
                "metric": each.metric,
                "difference": each.value,
                "low": each.interval.low,
                "high": each.interval.high,
                "method": each.interval.method,
                "p": each.p,
                "p_holm": each.adjusted,
                "standard_error_of_seeds": each.seeds,
                "distinguishable": each.shown,
            }
            for each in found
        ]
        write_whole(Path(arguments.out), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {arguments.out}")
    return fail_below(found, arguments.fail_below)


def fail_below(found: list, limit: float | None) -> int:
    """Return 1, and say why, if the interval of a difference lies below `limit`."""
    surely = [each for each in found if limit is not None and each.interval.high < limit]
    for each in surely:
        print(f"surely below {limit:g}: {each.metric} of {each.first} against {each.other}")
    return 1 if surely else 0


if __name__ == "__main__":
    run(main)
