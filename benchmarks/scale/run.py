"""Measure how costs grow, and write docs/scale.md, its picture and docs/scale.json.

make scale                                        measures what docs/scale.json lacks (some 15 minutes)
python benchmarks/scale/run.py train_vsepp start  measures the points of these parts that it lacks
python benchmarks/scale/run.py --again start      measures all points of this part
python benchmarks/scale/run.py --page             writes the page again, and measures nothing

Each point is stored when it is measured, so that a run which was ended goes on where it stood. With --busy,
points are marked as measured beside other programs: the page then tells their processor time.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from _report import ROOT, run_child
from run_all import describe_machine

import argparse
import json
import time
from datetime import datetime, timezone

from laws import SIZES
from law_page import write_page

RESULTS = ROOT / "docs" / "scale.json"
MEASURE = str(Path(__file__).resolve().parent / "measure.py")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(SIZES)}; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is stored already, too")
    parser.add_argument("--busy", action="store_true", help="other programs run on this machine meanwhile")
    parser.add_argument("--page", action="store_true", help="write the page from what is stored")
    asked = parser.parse_args()
    unknown = sorted(set(asked.parts) - set(SIZES))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; expected some of {', '.join(SIZES)}")
    for part in () if asked.page else asked.parts or SIZES:
        for size in SIZES[part]:
            if asked.again or str(size) not in read_results()["points"].get(part, {}):
                measure(part, size, asked.busy)
    write_page(read_results())


def measure(part: str, size: int, busy: bool) -> None:
    """Measure a point in a process of its own, and store it."""
    began = time.monotonic()
    found = run_child(MEASURE, part, str(size))
    print(f"{part} {size:,}: {json.dumps(found)} ({time.monotonic() - began:.0f} s)", flush=True)
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    stored = read_results() | {"machine": describe_machine()}
    stored["points"].setdefault(part, {})[str(size)] = found | {"busy": busy, "date": date}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def read_results() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"machine": "", "points": {}}


if __name__ == "__main__":
    main()
