"""The cost of a checkpoint for training: VSE++ at Flickr30k's size, 11 million weights with Adam's moments.

The cost is the time of some steps with a checkpoint minus that of the same steps without. It includes the
copy, the wait, and what the writing thread takes from the steps. In the foreground, the loop waits for the
disk.
"""

from _ours import our_config
from _race import random_captions, write_corpus
from _report import report

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from engine.runtime import prepare_runtime

IMAGES, STEPS, ROUNDS = 1000, 24, 5  # a round: STEPS steps with and STEPS without a checkpoint, both ways
SECONDS_BETWEEN, LIMIT = 60.0, 3.0  # seconds between checkpoints, percent of training time


class EndOfRaceError(Exception):
    """All steps are measured."""


def main() -> None:
    """Measure checkpoints in the background and in the foreground in turns, and report the costs."""
    with tempfile.TemporaryDirectory() as folder:
        times = train(Path(folder))
    costs = {"background": [], "foreground": []}
    for number in range(2 * ROUNDS):
        first = (2 * number + 2) * STEPS - 1  # the step before the checkpoint
        with_one, without = (times[start + STEPS] - times[start] for start in (first, first + STEPS))
        way = list(costs)[number % 2]
        costs[way].append(with_one - without)
        print(f"{way}: {STEPS} steps {without:.2f} s, with a checkpoint {with_one:.2f} s", flush=True)
    background, foreground = map(statistics.median, costs.values())
    report("a checkpoint, background against foreground", background, foreground, 1.0, "s", False)
    share = 100 * background / SECONDS_BETWEEN
    report("share of training time, a checkpoint a minute", share, LIMIT, 1.0, "%", False)


def train(folder: Path) -> list[float]:
    """Train with the toolkit's own loop; return the times at which the steps started.

    A checkpoint is written after every 2 x STEPS steps, in the background and in the foreground by turns.
    """
    write_corpus(folder, random_captions(5 * IMAGES), IMAGES, "vsepp")
    cfg = our_config("vsepp", folder, {"OUTPUT.SAVE_STEP": 2 * STEPS})
    prepare_runtime("cpu")

    from engine.tasks.loading import run_folder
    from engine.tasks.build_trainer import build_trainer
    from engine.runs.run_log import RunLog

    run = run_folder(cfg)
    trainer, _ = build_trainer(cfg, run, RunLog(run.log_file, None, enabled=False), resume_from=None)
    batches = list(islice(trainer.batches_of(0, 0)[1], STEPS))
    began: list[float] = []
    start = trainer._writer.start

    def start_by_turns(write: Callable[..., None], *arguments: object) -> None:
        if len(began) // (2 * STEPS) % 2 == 1:
            start(write, *arguments)
        else:
            write(*arguments)

    def timed() -> Iterator[dict]:
        for step in range(4 * ROUNDS * STEPS + 2 * STEPS):
            began.append(time.perf_counter())
            yield batches[step % STEPS]
        raise EndOfRaceError

    trainer._writer.start = start_by_turns
    trainer.batches_of = lambda epoch, start: (10**9, timed())
    with contextlib.suppress(EndOfRaceError):
        trainer.fit()
    return began


if __name__ == "__main__":
    main()
