"""Train a retrieval model.

    python tools/train_retrieval.py --cfg_file configs/scenes/vsepp.yaml
    python tools/train_retrieval.py --cfg_file configs/scenes/vsepp.yaml OPTIMIZATION.EPOCHS=5 --resume
    python -m paddle.distributed.launch --nproc_per_node 2 tools/train_retrieval.py --cfg_file F

The run folder OUTPUT.CHECKPOINT_DIR/OUTPUT.SAVE_NAME holds config.yaml, log.jsonl, status.json (tools/runs.py
lists runs), curves/, best/ and last/.
Ctrl-C and SIGTERM save and stop; --resume continues, on the CPU to the same weights bit for bit as without a
stop. A finished run continues with --resume and a larger OPTIMIZATION.EPOCHS.
The launcher prints the output of process 0, and keeps the output of all in log/ of the current folder (or
--log_dir).
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run, start_runtime

from yacs.config import CfgNode

from config.errors import UserError
from config.load import add_config_arguments, config_from_arguments, save_config
from engine.runtime import Runtime

if TYPE_CHECKING:
    from engine.runs.run_log import RunLog
    from engine.training.trainer import Trainer


def main() -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the run's last/ checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run that is in the folder and start anew"
    )
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    resume = arguments.resume or cfg.PRETRAINED.RESUME
    if resume and arguments.overwrite:
        raise UserError("command line: expected --resume (or PRETRAINED.RESUME) or --overwrite, got both")
    runtime = start_runtime(cfg)
    from engine.parallel.processes import start_process_group

    start_process_group()
    return train(cfg, runtime, resume, arguments.overwrite)


def train(cfg: CfgNode, runtime: Runtime, resume: bool, overwrite: bool) -> int:
    """Build what `cfg` describes, and train; return the exit code."""
    from engine.tasks.loading import run_folder
    from engine.tasks.build_trainer import build_trainer
    from engine.runs.checkpoint import newest_whole
    from config.files.whole import write_whole
    from engine.parallel.processes import (
        broadcast_layer,
        is_main,
        process_number,
        wait_for_all,
        world_size,
    )
    from engine.training.outcomes import nothing_left
    from engine.runs.run_log import RunLog

    folder = run_folder(cfg)
    if is_main():
        folder.open_for_training(resume, overwrite)
        print(runtime.describe(), flush=True)
    log = RunLog(folder.log_file, folder.path / "curves" if cfg.MONITOR.VISUALDL else None, enabled=is_main())
    resume_from = None
    try:
        if resume:
            resume_from, problem = newest_whole(folder.last)
            if problem:
                log.print_line(f"{problem}: going on from the checkpoint before it")
        trainer, vocabulary = build_trainer(cfg, folder, log, resume_from, process_number(), world_size())
        broadcast_layer(trainer.model)
        broadcast_layer(trainer.loss)
        wait_for_all()
    except BaseException:
        folder.abandon()
        raise
    over = nothing_left(trainer.position, trainer.settings)
    if over:
        log.print_line(f"nothing left to train in {folder.path}: {over}")
        return 0
    if is_main():  # not earlier: by now every process has accepted what the user gave
        if not resume:
            folder.clear()
        elif resume_from != folder.last:
            folder.set_aside_damaged()
        save_config(cfg, folder.config_file)
        write_whole(folder.path / vocabulary.file_name, vocabulary.to_text())
    code = fit(trainer, log)
    if is_main() and code == 0:
        best = trainer.position
        print(f"done: best {cfg.MONITOR.BEST_METRIC} {best.best_score:.1f} at step {best.best_step}")
        evaluate = Path(sys.argv[0]).with_name("eval_retrieval.py")
        print(f"next: python {shlex.join([str(evaluate), '--cfg_file', str(folder.config_file)])}")
    return code


def fit(trainer: "Trainer", log: "RunLog") -> int:
    """Train until the end, a signal or a failure; return the exit code."""
    from engine.training.outcomes import TrainingFailedError, TrainingStoppedError

    stop_on_signals(trainer)
    state = "failed"
    try:
        trainer.fit()
        state = "finished"
    except TrainingStoppedError as stop:
        state, step = "stopped", trainer.position.step
        log.event("stopped", step, f"{stop} at step {step}; saved, --resume goes on")
        return stop.exit_code
    except TrainingFailedError as failure:
        log.log_event("failed", trainer.position.step, str(failure))
        if trainer.rank == 0:
            print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        log.close(state)
    return 0


def stop_on_signals(trainer: "Trainer") -> None:
    """Let Ctrl-C and SIGTERM stop training after the current step; a second Ctrl-C stops it at once."""

    def request_stop(number: int, frame: object) -> None:
        if trainer.stop_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, trainer.stop_signal = not trainer.stop_signal, number
        if first and trainer.rank == 0:
            again = "; press Ctrl-C again to leave without saving" if number == signal.SIGINT else ""
            # print would fail if the signal interrupted another print on the same stream.
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"\nstopping after this step{again}\n".encode())

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)


if __name__ == "__main__":
    run(main)
