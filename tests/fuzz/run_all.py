"""Damage thousands of files of each kind that is read, and tell what is not one short line.

    make fuzz
    python tests/fuzz/run_all.py --inputs 10000 --record out/fuzz.jsonl   # goes on where it was stopped
    python tests/fuzz/run_all.py --again "captions, csv" 1234             # one input, with its traceback

An input follows from the reader's name and a number, so it can be made again. Each reader works in a process
of its own, on files in memory (/dev/shm), and another process watches it: a crash, a hang, a hunger for
memory, and what a library prints are findings like a traceback.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.kept import ALL
from tests.fuzz.watched import Finding, Trial, damage, watch

MEMORY = Path("/dev/shm")
ROW = "{:<28}{:>8}{:>8}{:>9}{:>10}{:>8}"


def main() -> int:
    """Try all readers, or those named; return 1 where something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help="such as npy; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each reader (default: 10,000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="readers at a time (default: cores)")
    parser.add_argument("--record", type=Path, help="file of results; its readers are not tried again")
    parser.add_argument("--again", nargs=2, metavar=("READER", "NUMBER"), help="try one input")
    arguments = parser.parse_args()
    names = [arguments.again[0]] if arguments.again else arguments.readers or list(ALL)
    if unknown := sorted(set(names) - set(ALL)):
        parser.error(f"no such reader: {', '.join(unknown)}; expected some of {', '.join(ALL)}")
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        if arguments.again:
            try_again(names[0], int(arguments.again[1]), Path(folder))
            return 0
        done = recorded(arguments.record, arguments.inputs)
        print(ROW.format("reader", "inputs", "read", "refused", "findings", "seconds"))
        for name in [name for name in names if name in done]:
            show(done[name])
        trials = [Trial(name, ALL[name], arguments.inputs) for name in names if name not in done]
        for trial in watch(trials, Path(folder), arguments.jobs):
            done[trial.name] = trial
            show(trial)
            keep(trial, arguments.record)
    found = sum(done[name].found for name in names)
    print(f"{len(names)} readers, {sum(done[name].inputs for name in names)} inputs, {found} findings")
    return int(found > 0)


def try_again(name: str, number: int, folder: Path) -> None:
    """Make one input again, say which file it damages, and read it."""
    reader = ALL[name]
    reader.write(folder)
    file, data = damage(name, reader, number, folder)
    (folder / file).write_bytes(data)
    print(f"{file}: {data[:500]!r} ({len(data)} bytes)")
    print(reader.read(folder))


def recorded(record: Path | None, inputs: int) -> dict[str, Trial]:
    """Return the recorded trials without findings, of at least so many inputs."""
    if record is None or not record.exists():
        return {}
    trials = [
        Trial(**{**each, "reader": ALL[each["name"]], "findings": [Finding(**f) for f in each["findings"]]})
        for each in map(json.loads, record.read_text().splitlines())
        if each["name"] in ALL
    ]
    return {trial.name: trial for trial in trials if trial.inputs >= inputs and not trial.found}


def keep(trial: Trial, record: Path | None) -> None:
    """Write a trial to the record, where there is one."""
    if record is None:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in vars(trial).items() if key not in ("reader", "findings")}
    content["findings"] = [asdict(finding) for finding in trial.findings]
    with record.open("a") as file:
        file.write(json.dumps(content) + "\n")


def show(trial: Trial) -> None:
    """Print a row of the table, and what was found."""
    counts = (trial.inputs, trial.read, trial.refused, trial.found, trial.seconds)
    print(ROW.format(trial.name, *counts), flush=True)
    for finding in trial.findings:
        print(f"    {finding.number}: {finding.what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
