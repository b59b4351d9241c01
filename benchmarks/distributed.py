"""Two processes of one thread each against one process of two threads: training VSE++ on the same batches.

Embeddings have 1024 dimensions, words 300, images 4096; the vocabulary has 10,000 words. A step has 128
pairs, so 64 a process. Both sides train the same batches, in turns. The second result is the time that two
processes need to start and finish their first step.
"""

from _report import TUNING, alternate, report

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _race import random_captions, write_corpus

HERE = Path(__file__).resolve().parent
IMAGES, ROUNDS = 6000, 5
PATIENCE = 300.0  # seconds
START_LIMIT = 15.0  # seconds


class Side:
    """A training job that trains the steps of a turn once the turn's file exists, and writes its pairs/s."""

    def __init__(self, name: str, processes: int, threads: int, folder: Path) -> None:
        self.name, self.folder, self.turns = name, folder, 0
        environment = {name: value for name, value in os.environ.items() if name not in TUNING}
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
            command += ["--log_dir", str(folder / f"{name}.logs")]
        command += [str(HERE / "_ours_split.py"), str(folder), name, str(threads)]
        self.started = time.time()
        self.log = folder / f"{name}.log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output
            )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait()

    def turn(self) -> float:
        """Return the pairs/s of the next turn; raises RuntimeError if the job has ended or takes too long."""
        answer = self.folder / f"{self.name}.{self.turns}.json"
        (self.folder / f"{self.name}.{self.turns}.go").touch()
        self.turns += 1
        began = time.time()
        while not answer.exists():
            if self.process.poll() is not None or time.time() - began > PATIENCE:
                printed = self.log.read_text()[-2000:]
                raise RuntimeError(f"the side {self.name} gave no answer:\n{printed}")
            time.sleep(0.02)
        measured = json.loads(answer.read_text())
        print(f"{self.name}: {measured['per_second']:.4g} pairs/s", flush=True)
        return measured["per_second"]

    def seconds_to_first_step(self) -> float:
        """Train the first turn, which is one step, and return the time since the job's command in seconds."""
        self.turn()
        return json.loads((self.folder / f"{self.name}.0.json").read_text())["time"] - self.started


def main() -> None:
    """Measure both sides in turns, and report their speeds and the start of two processes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder, random_captions(5 * IMAGES), IMAGES, "vsepp")
        with Side("two_processes", 2, 1, folder) as two:
            start = two.seconds_to_first_step()
            with Side("one_process", 1, 2, folder) as one:
                one.turn()
                two.turn(), one.turn()  # warm-up
                measured = alternate(two.turn, one.turn, ROUNDS)
    report("VSE++ training, two processes against two threads", *measured, 0.85, "pairs/s", True)
    report("start of two processes to their first step", start, START_LIMIT, 1.0, "s", False)


if __name__ == "__main__":
    main()
