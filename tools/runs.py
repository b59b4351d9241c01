"""List runs: the model, the state, the step, the best score and the last sign of life of each.

    python tools/runs.py
    python tools/runs.py out/demo
    python tools/runs.py out --json

FOLDER (default: that of OUTPUT.CHECKPOINT_DIR) is searched for run folders. Their states:

    running, finished
    stopped    by a signal; --resume continues it
    failed     by an error, which the run printed
    died       the process is gone from this machine, as after a kill; --resume continues the run
    silent     no sign of life for ten minutes: the run hangs, or its machine is down
    converted  made by tools/convert_weights.py, and not trained since
    unknown    no readable status.json: the run has not begun, or is of an earlier version
"""

import argparse
import json
import os
from datetime import datetime, timezone
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

import yaml

from config.arguments import report_errors_on_one_line
from config.default import default_config
from config.errors import UserError
from engine.runs.run_status import STATUS_FILE, read_status

CONFIG_FILE = "config.yaml"


def main() -> None:
    """Parse the command line and list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    default = Path(default_config().OUTPUT.CHECKPOINT_DIR)
    help_text = "folder of runs, or one of them (default: %(default)s)"
    parser.add_argument("folder", nargs="?", type=Path, default=default, metavar="FOLDER", help=help_text)
    parser.add_argument("--json", action="store_true", help="print a JSON list with everything that is known")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        raise UserError(
            f"command line: FOLDER: expected a folder of runs, got {arguments.folder}, which is no folder; "
            "name the OUTPUT.CHECKPOINT_DIR that you train with"
        )
    now = datetime.now(timezone.utc)
    runs = [describe(path, arguments.folder, now) for path in find_runs(arguments.folder)]
    if arguments.json:
        print(json.dumps(runs, indent=1))
    else:
        print(table(runs) if runs else f"no runs in {arguments.folder}")


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders inside `folder`, or `folder` itself if it is one."""
    runs = []
    for path, folders, files in os.walk(folder):
        if {CONFIG_FILE, STATUS_FILE} & set(files):
            runs.append(Path(path))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(runs)


def describe(run_folder: Path, folder: Path, now: datetime) -> dict:
    """Return the record of a run for `table` and --json; its `run` is the path inside `folder`."""
    name = str(run_folder.relative_to(folder)) if run_folder != folder else run_folder.resolve().name
    model, metric = None, None
    try:
        config = yaml.safe_load((run_folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model, metric = str(config["MODEL"]["NAME"]), str(config["MONITOR"]["BEST_METRIC"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        pass  # the row of a folder without a readable config.yaml has gaps
    return {"run": name, "model": model, "best_metric": metric, **read_status(run_folder, now)}


def table(runs: list[dict]) -> str:
    """Return the runs as lines of aligned columns."""
    rows = [("run", "model", "state", "step", "best", "last sign of life")]
    for each in runs:
        score, ago = each.get("best_score"), each.get("seconds_ago")
        rows.append(
            (
                each["run"],
                each["model"] or "-",
                each["state"],
                f"{each['step']}/{each['steps']}" if "step" in each else "-",
                "-" if score is None else f"{each['best_metric'] or ''} {score:.1f}".strip(),
                "-" if ago is None else f"{time_ago(ago)} ago",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def time_ago(seconds: float) -> str:
    """Return a duration in the largest unit that it holds twice: `12 s`, `5 min`, `3 h` or `2 days`."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


if __name__ == "__main__":
    run(main)
