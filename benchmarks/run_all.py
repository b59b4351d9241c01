"""Run the benchmarks of this folder and write their results to docs/performance.md.

make bench                                           runs all, in three quarters of an hour
python benchmarks/run_all.py train_vse encode_vse    runs these two; the earlier results of the others stay
ROUNDS=1 python benchmarks/builds_vsrn.py            fewer turns, where sides take turns
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
RESULTS = PAGE.with_suffix(".json")  # the same results, for the next run
NOT_HERE = ": not here, since "
KEYS = {"name", "ours", "baseline", "ratio", "goal", "unit"}


@dataclass(frozen=True)
class Outcome:
    """The results of one script as its JSON lines, or the reason why there are none.

    `absent` are the lines that say what this machine cannot measure, and why.
    """

    script: str
    failure: str
    minutes: float
    date: str
    lines: list[dict] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def main() -> int:
    sys.path.insert(0, str(HERE.parent))
    scripts = find_scripts(HERE)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [script.stem for script in scripts]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}; default: all")
    chosen = parser.parse_args().names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; expected some of {', '.join(names)}")
    outcomes = read_results(RESULTS, names) if chosen else {}
    load = os.getloadavg()[0]
    scripts = [script for script in scripts if not chosen or script.stem in chosen]
    for number, script in enumerate(scripts, 1):
        print(f"[{number}/{len(scripts)}] {script.name}", flush=True)
        outcomes[script.stem] = run_script(script)
    ordered = [outcomes[name] for name in names if name in outcomes]
    loads = f"Load of the last run: {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end."
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(ordered, f"{describe_machine()}\n{loads}"))
    stored = [{key: value for key, value in asdict(each).items() if value != []} for each in ordered]
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    missed = [line["name"] for outcome in ordered for line in outcome.lines if line["ratio"] < line["goal"]]
    failed = [outcome.script for outcome in ordered if outcome.failure]
    print(f"goals missed: {'; '.join(missed) or 'none'}; scripts failed: {', '.join(failed) or 'none'}")
    print(f"wrote docs/{PAGE.name}")
    return 1 if failed else 0


def read_results(path: Path, names: list[str]) -> dict[str, Outcome]:
    """Return the earlier results of the scripts that still exist, by name."""
    stored = json.loads(path.read_text()) if path.is_file() else []
    outcomes = [Outcome(**outcome) for outcome in stored]
    return {Path(each.script).stem: each for each in outcomes if Path(each.script).stem in names}


def find_scripts(folder: Path) -> list[Path]:
    """Return the benchmarks in `folder`: its scripts, except run_all.py and helpers (`_name.py`)."""
    return sorted(
        path for path in folder.glob("*.py") if not path.name.startswith("_") and path.name != "run_all.py"
    )


def run_script(script: Path) -> Outcome:
    """Run one benchmark, print its output as it comes, and return its outcome."""
    start = time.monotonic()
    lines, absent, last = [], [], ""
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for printed in process.stdout:
        print(f"    {printed}", end="", flush=True)
        lines += parse_line(printed)
        absent += [printed.strip()] if NOT_HERE in printed else []
        last = printed.strip() or last
    code = process.wait()
    failure = ""
    if code != 0:
        failure = f"ended with {code}: {last}"
    elif not lines and not absent:
        failure = f"printed no result; its last line is: {last}"
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    minutes = (time.monotonic() - start) / 60
    return Outcome(script.name, failure, minutes, date, lines, absent)


def parse_line(printed: str) -> list[dict]:
    """Return a list of the result in a line of output; the list is empty if the line has none."""
    try:
        line = json.loads(printed)
    except ValueError:
        return []
    return [line] if isinstance(line, dict) and line.keys() >= KEYS else []


def page(outcomes: list[Outcome], machine: str) -> str:
    """Return the text of docs/performance.md."""
    results = [line for outcome in outcomes for line in outcome.lines]
    met = sum(line["ratio"] >= line["goal"] for line in results)
    rows = []
    for outcome in outcomes:
        for line in outcome.lines:
            numbers = [f"{line[key]:.4g} {line['unit']}" for key in ("ours", "baseline")]
            verdict = "yes" if line["ratio"] >= line["goal"] else "**no**"
            ratios = [f"{line['ratio']:.2f}", f"{line['goal']:g}", verdict]
            rows.append([f"`{outcome.script}`", line["name"], *numbers, *ratios, outcome.date])
        for line in outcome.absent:
            name, _, reason = line.partition(NOT_HERE)
            rows.append([f"`{outcome.script}`", name, *[""] * 4, f"not here: {reason}", outcome.date])
        if outcome.failure:
            rows.append(
                [
                    f"`{outcome.script}`",
                    f"**failed**: {outcome.failure}",
                    "",
                    "",
                    "",
                    "",
                    "**no**",
                    outcome.date,
                ]
            )
    header = ["script", "what", "ours", "baseline", "ratio", "goal", "met", "measured"]
    table = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in [header, ["---"] * len(header), *rows])
    minutes = sum(outcome.minutes for outcome in outcomes)
    failures = sum(bool(outcome.failure) for outcome in outcomes)
    return f"""# Performance

Written by `make bench`, whose scripts take {minutes:.0f} minutes; do not edit.
{met} of {len(results)} goals are met, and {failures} of {len(outcomes)} scripts failed.

{machine}

A ratio says how many times better ours is than the baseline; both are measured in the same run. Only
ratios carry over to other machines. Each script in `benchmarks/` says what it compares, and runs alone too.

{table}
"""


def describe_machine() -> str:
    """Return a description of the machine, without its name, and the versions of Python and packages."""
    from engine.runtime import usable_cores

    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = [f"Python {platform.python_version()}"]
    for package in ("paddlepaddle", "paddlepaddle-gpu", "numpy", "torch"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return (
        "Machine of the last run, by whose date a row is told: "
        f"{platform.system()}, {usable_cores()} cores of {model}, {memory:.0f} GB.\n"
        f"Versions: {', '.join(versions)}."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
