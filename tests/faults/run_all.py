"""Let every fault happen to real command lines, several times, and print what survived as a table.

    make faults
    python tests/faults/run_all.py --seed 1 killed disk_full

A run survives when --resume ends with the weights of an undisturbed run, bit for bit, and what refuses to go
on does so in one line.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.faults import FAULTS, Fault, small_file_system
from tests.faults.runs import Bench, LostError, can_mount


def main() -> int:
    """Try all, or those named; return 1 where a run was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [fault.happen.__name__ for fault in FAULTS]
    parser.add_argument("names", nargs="*", metavar="FAULT", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the random steps and places (default: 0)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; expected some of {', '.join(names)}")
    chosen = [fault for fault in FAULTS if fault.happen.__name__ in (arguments.names or names)]
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(Bench(Path(folder))) as bench:
            for fault in chosen:
                if fault.happen is small_file_system and not can_mount():
                    rows.append((fault, None))
                    continue
                tries = [survives(fault, bench, arguments.seed, number) for number in range(fault.times)]
                rows.append((fault, sum(tries)))
    print(table(rows))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    return int(any(survived not in (None, fault.times) for fault, survived in rows))


def survives(fault: Fault, bench: Bench, seed: int, number: int) -> bool:
    """Let a fault happen once; print and return whether the run survived."""
    try:
        fault.happen(bench, Random(f"{seed} {fault.name} {number}"))
    except LostError as error:
        print(f"{fault.name} [{number + 1}/{fault.times}]: LOST: expected: {error}", flush=True)
        return False
    print(f"{fault.name} [{number + 1}/{fault.times}]: survived", flush=True)
    return True


def table(rows: list[tuple[Fault, int | None]]) -> str:
    """Return the table, in Markdown; None survived of what could not be tried here."""
    lines = ["| fault | what it does | tried | survived |", "|---|---|---|---|"]
    for fault, survived in rows:
        counts = "0 | not tried: no mounting here" if survived is None else f"{fault.times} | {survived}"
        lines.append(f"| {fault.name} | {fault.answer} | {counts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
