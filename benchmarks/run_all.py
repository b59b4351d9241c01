"""Run every benchmark of this folder and write what they measured into docs/performance.md."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
KEYS = {"name", "ours", "baseline", "ratio", "goal", "unit"}


@dataclass(frozen=True)
class Outcome:
    """What one script gave: its JSON lines, or why there are none."""

    script: str
    lines: list[dict]
    failure: str
    minutes: float


def main() -> int:
    sys.path.insert(0, str(HERE.parent))
    scripts = find_scripts(HERE)
    started, load = datetime.now(timezone.utc), os.getloadavg()[0]
    outcomes = []
    for number, script in enumerate(scripts, 1):
        print(f"[{number}/{len(scripts)}] {script.name}", flush=True)
        outcomes.append(run_script(script))
    PAGE.parent.mkdir(exist_ok=True)
    loads = f"Load: {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end."
    PAGE.write_text(page(outcomes, f"{describe_machine()}\n{loads}", started.strftime("%Y-%m-%d")))
    missed = [line["name"] for outcome in outcomes for line in outcome.lines if line["ratio"] < line["goal"]]
    failed = [outcome.script for outcome in outcomes if outcome.failure]
    print(f"goals missed: {'; '.join(missed) or 'none'}; scripts failed: {', '.join(failed) or 'none'}")
    print(f"wrote docs/{PAGE.name}")
    return 1 if failed else 0


def find_scripts(folder: Path) -> list[Path]:
    """Return the benchmarks in `folder`: its scripts, without this one and helpers (`_name.py`)."""
    return sorted(
        path for path in folder.glob("*.py") if not path.name.startswith("_") and path.name != "run_all.py"
    )


def run_script(script: Path) -> Outcome:
    """Run one benchmark, passing on what it prints, and collect its JSON lines."""
    start = time.monotonic()
    lines, last = [], ""
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for printed in process.stdout:
        print(f"    {printed}", end="", flush=True)
        lines += parse_line(printed)
        last = printed.strip() or last
    code = process.wait()
    failure = ""
    if code != 0:
        failure = f"ended with {code}: {last}"
    elif not lines:
        failure = f"printed no result; its last line is: {last}"
    return Outcome(script.name, lines, failure, (time.monotonic() - start) / 60)


def parse_line(printed: str) -> list[dict]:
    """Return the result that a line holds, in a list; an empty list for any other line."""
    try:
        line = json.loads(printed)
    except ValueError:
        return []
    return [line] if isinstance(line, dict) and line.keys() >= KEYS else []


def page(outcomes: list[Outcome], machine: str, date: str) -> str:
    """Return the text of docs/performance.md."""
    results = [line for outcome in outcomes for line in outcome.lines]
    met = sum(line["ratio"] >= line["goal"] for line in results)
    rows = []
    for outcome in outcomes:
        for line in outcome.lines:
            numbers = [f"{line[key]:.4g} {line['unit']}" for key in ("ours", "baseline")]
            verdict = "yes" if line["ratio"] >= line["goal"] else "**no**"
            ratios = [f"{line['ratio']:.2f}", f"{line['goal']:g}", verdict]
            rows.append([f"`{outcome.script}`", line["name"], *numbers, *ratios])
        if outcome.failure:
            rows.append([f"`{outcome.script}`", f"**failed**: {outcome.failure}", "", "", "", "", "**no**"])
    header = ["script", "what", "ours", "baseline", "ratio", "goal", "met"]
    table = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in [header, ["---"] * len(header), *rows])
    minutes = sum(outcome.minutes for outcome in outcomes)
    failures = sum(bool(outcome.failure) for outcome in outcomes)
    return f"""# Performance

Written by `make bench` on {date}, in {minutes:.0f} minutes; do not edit.
{met} of {len(results)} goals are met, and {failures} of {len(outcomes)} scripts failed.

{machine}

A ratio says how many times better ours is than the baseline; both are measured in the same run. Only
ratios carry over to other machines. Each script in `benchmarks/` says what it compares, and runs alone too.

{table}
"""


def describe_machine() -> str:
    """Return what the machine is and which versions ran, without its name."""
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
        f"Machine: {platform.system()}, {usable_cores()} cores of {model}, {memory:.0f} GB.\n"
        f"Versions: {', '.join(versions)}."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
