"""What a checkpoint costs training: VSE++ at Flickr30k's size, 11 million weights with Adam's moments.

Steps with a checkpoint among them against the same steps without, so that the cost is the copy, the wait, and
what the thread that writes takes from the steps beside it. In the foreground the loop waits for the disk.
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

IMAGES, STEPS, ROUNDS = 1000, 24, 5  # a round: STEPS with and STEPS without a checkpoint, for each way
SECONDS_BETWEEN, LIMIT = 60.0, 3.0  # %


class EndOfRaceError(Exception):
    """All turns were taken."""


def main() -> None:
    """Measure both ways in turns and report the cost in the background."""
    with tempfile.TemporaryDirectory() as folder:
        times = train(Path(folder))
    costs = {"background": [], "foreground": []}
    for number in range(2 * ROUNDS):
        first = (2 * number + 2) * STEPS - 1  # the step behind which the checkpoint is
        with_one, without = (times[start + STEPS] - times[start] for start in (first, first + STEPS))
        way = list(costs)[number % 2]
        costs[way].append(with_one - without)
        print(f"{way}: {STEPS} steps {without:.2f} s, with a checkpoint {with_one:.2f} s", flush=True)
    background, foreground = map(statistics.median, costs.values())
    report("a checkpoint, background against foreground", background, foreground, 1.0, "s", False)
    share = 100 * background / SECONDS_BETWEEN
    report("share of training time, a checkpoint a minute", share, LIMIT, 1.0, "%", False)


def train(folder: Path) -> list[float]:
    """Train with the toolkit's own loop; return when each step began.

    After 2 x STEPS, and then after as many again, there is a checkpoint, every second one in the foreground.
    """
    write_corpus(folder, random_captions(5 * IMAGES), IMAGES, "vsepp")
    cfg = our_config("vsepp", folder, {"OUTPUT.SAVE_STEP": 2 * STEPS})
    prepare_runtime("cpu")

    from engine.tasks.loading import run_folder
    from engine.tasks.training import build_trainer
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
