"""A process of one side of distributed.py: `python _ours_split.py FOLDER NAME THREADS`, launched or alone.

When FOLDER/NAME.TURN.go appears, the process trains one step in turn 0 and STEPS steps in each later turn.
Then process 0 writes the pairs/s of the whole job to FOLDER/NAME.TURN.json.
"""

from _ours import our_config

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from engine.runtime import prepare_runtime

BATCH = 128  # pairs of a step, of all processes together
STEPS = 8  # steps of a turn


def main() -> None:
    """Train with the toolkit's own loop, which waits for its next turn when it asks for a batch."""
    folder, name, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    changes = {"OPTIMIZATION.BATCH_SIZE": BATCH // processes, "OUTPUT.SAVE_NAME": name}
    cfg = our_config("vsepp", folder, changes)
    prepare_runtime("cpu", threads)

    from engine.tasks.loading import run_folder
    from engine.tasks.build_trainer import build_trainer
    from engine.parallel.processes import broadcast_layer, process_number, start_process_group
    from engine.runs.run_log import RunLog

    start_process_group()
    log = RunLog(run_folder(cfg).log_file, None, enabled=False)
    trainer, _ = build_trainer(cfg, run_folder(cfg), log, None, process_number(), processes)
    broadcast_layer(trainer.model)
    batches_of = trainer.batches_of

    def in_turns(epoch: int, start: int) -> tuple[int, Iterable[dict]]:
        number, batches = batches_of(epoch, start)
        return number, take_turns(iter(batches), folder / name, processes, answers=process_number() == 0)

    trainer.batches_of = in_turns
    trainer.fit()


def take_turns(batches: Iterator[dict], path: Path, processes: int, answers: bool) -> Iterator[dict]:
    """Yield the batches of each turn once its file exists; with `answers`, write the turn's pairs/s."""
    for turn in count():
        go, answer = (path.with_name(f"{path.name}.{turn}.{suffix}") for suffix in ("go", "json"))
        while not go.exists():
            time.sleep(0.005)
        started, pairs = time.perf_counter(), 0
        for _ in range(STEPS if turn else 1):
            batch = next(batches)
            pairs += len(batch["image_id"]) * processes
            yield batch
        per_second = pairs / (time.perf_counter() - started)
        if answers:
            draft = answer.with_suffix(".new")
            draft.write_text(json.dumps({"per_second": per_second, "time": time.time()}))
            draft.rename(answer)


if __name__ == "__main__":
    main()
