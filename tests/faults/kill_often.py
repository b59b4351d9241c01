"""Kill one run 200 times at random moments, and compare every resume with a run that nothing happened to.

    python tests/faults/kill_often.py [TIMES]

Each time the run is resumed, makes a few steps and is killed with SIGKILL. What each resume logs of a step
(loss, learning rate) must equal, number for number, what the undisturbed run logged of that step, no step of
a checkpoint may be lost, and the end must have the same weights bit for bit.
"""

import contextlib
import json
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.runs import Bench, Run, expect

SPEEDS = ("samples_per_second", "time", "seconds", "eta_seconds")


class LongRun(Run):
    """A run of as many epochs as are needed; an epoch has six steps."""

    epochs = 0

    def command(self, *options: str) -> list[str]:
        """Return the command line."""
        return [*super().command(*options), f"OPTIMIZATION.EPOCHS={self.epochs}"]


def main() -> None:
    """Kill, resume, compare, and print a line about it."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    LongRun.epochs = times * 3 // 6 + 2
    random, began = Random(0), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Bench(Path(folder))) as bench:
        whole, run = (LongRun(bench.folder / name, bench.data) for name in ("whole", "killed"))
        bench.runs += [whole, run]
        whole.start()
        code, _, errors = whole.end(3600.0)
        expect(code == 0, f"the undisturbed run ends with 0: {errors}")
        wanted, killed, lost = steps_of(whole), 0, 0
        while killed < times:
            saved = run.saved_step()
            (printed := run.prints / "out").write_text("")
            (run.prints / "errors").write_text("")
            run.start(*(["--resume"] if saved else []))
            # Now and then before it has begun, otherwise when it has made one to four steps.
            until, started = saved + random.randint(0, 4), time.time()
            while until > saved and until not in steps_of(run, started) and run.process.poll() is None:
                time.sleep(0.02)
            time.sleep(random.uniform(0, 0.05 if until > saved else 2.0))
            if run.process.poll() is not None:
                expect(run.process.poll() == 0, f"it goes on: {(run.prints / 'errors').read_text()}")
                break
            expect(run.end_by(signal.SIGKILL)[0] == -signal.SIGKILL, "it is killed")
            killed += 1
            found = re.search(r"^resuming .* at step (\d+)", printed.read_text(), re.MULTILINE)
            expect(not found or int(found.group(1)) >= saved, f"resume {killed} goes on from step {saved}")
            differing = [step for step, record in steps_of(run).items() if record != wanted[step]]
            expect(
                not differing,
                f"resume {killed} logs what the undisturbed run does; not so at {differing[:5]}",
            )
            lost += max(steps_of(run), default=0) - run.saved_step()
            if killed % 20 == 0:
                print(f"killed {killed} times, at step {run.saved_step()}", flush=True)
        expect(killed == times, f"{times} kills fit into the run, there were {killed}")
        run.resume(whole, run.saved_step())
    print(
        f"killed {killed} times in {max(wanted)} steps: every resume equals the undisturbed run, "
        f"{lost / killed:.1f} steps made again each time; {(time.monotonic() - began) / 60:.0f} minutes"
    )


def steps_of(run: Run, since: float = 0.0) -> dict[int, dict]:
    """Return the last record of each training step in a run's log, without what a clock decides."""
    log, found = run.path / "log.jsonl", {}
    for line in log.read_text().splitlines() if log.is_file() else []:
        with contextlib.suppress(ValueError):  # a line that was cut by a kill
            record = json.loads(line)
            if record.get("event") == "train" and record["time"] >= since:
                found[record["step"]] = {key: value for key, value in record.items() if key not in SPEEDS}
    return found


if __name__ == "__main__":
    main()
