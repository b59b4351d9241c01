"""Train a retrieval model.

    python tools/train_retrieval.py --cfg_file configs/scenes/vsepp.yaml
    python tools/train_retrieval.py --cfg_file configs/scenes/vsepp.yaml OPTIMIZATION.EPOCHS=5 --resume
    python -m paddle.distributed.launch --nproc_per_node 2 tools/train_retrieval.py --cfg_file F

The run's folder is OUTPUT.CHECKPOINT_DIR/OUTPUT.SAVE_NAME: config.yaml, log.jsonl, curves/, best/ and last/.
Ctrl-C and SIGTERM save and leave; --resume goes on from there, to the same weights bit for bit on the CPU.
"""

import argparse
import signal
import sys

import _init_paths  # noqa: F401
from _command import run

from yacs.config import CfgNode

from config.load import add_config_arguments, config_from_arguments, save_config
from engine.runtime import Runtime, prepare_runtime


def main() -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the run's last/ checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run that is in the folder and start again"
    )
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    runtime = prepare_runtime(
        device=cfg.RUNTIME.DEVICE,
        threads=cfg.RUNTIME.THREADS,
        seed=cfg.MISC.SEED,
        deterministic=cfg.RUNTIME.DETERMINISTIC,
    )
    return train(
        cfg, runtime, resume=arguments.resume or cfg.PRETRAINED.RESUME, overwrite=arguments.overwrite
    )


def train(cfg: CfgNode, runtime: Runtime, resume: bool, overwrite: bool) -> int:
    """Build everything that `cfg` names, and train; return the exit code."""
    from engine.build import build_trainer, run_folder
    from engine.checkpoint import write_atomically
    from engine.distributed import broadcast_layer, is_main, rank, start_process_group, world_size
    from engine.run_log import RunLog
    from engine.trainer import TrainingStoppedError, TrainingFailedError

    folder = run_folder(cfg)
    if is_main():
        folder.open_for_training(resume, overwrite)
        print(runtime.describe(), flush=True)
    start_process_group()
    log = RunLog(folder.log_file, folder.path / "curves" if cfg.MONITOR.VISUALDL else None, enabled=is_main())
    trainer, vocabulary = build_trainer(cfg, folder, log, resume, rank(), world_size())
    if is_main():  # only now, when nothing that the user gave can be wrong any more
        if not resume:
            folder.clear()
        save_config(cfg, folder.config_file)
        write_atomically(folder.vocabulary_file, vocabulary.to_json())
    broadcast_layer(trainer.model)
    broadcast_layer(trainer.loss)
    stop_on_signals(trainer)
    try:
        trainer.fit()
    except TrainingStoppedError as stop:
        log.remark(
            "stopped",
            trainer.progress.step,
            f"{stop} at step {trainer.progress.step}; saved, --resume goes on",
        )
        return stop.exit_code
    except TrainingFailedError as failure:
        log.remark("failed", trainer.progress.step, f"error: {failure}")
        print(f"error: {failure}", file=sys.stderr)
        return 1
    finally:
        log.close()
    if is_main():
        best = trainer.progress
        print(f"done: best {cfg.MONITOR.BEST_METRIC} {best.best_score:.1f} at step {best.best_step}")
        print(f"next: python tools/eval_retrieval.py --cfg_file {folder.config_file}")
    return 0


def stop_on_signals(trainer) -> None:
    """Let Ctrl-C and SIGTERM end training after the step at hand; a second Ctrl-C ends it at once."""

    def request_stop(number: int, frame: object) -> None:
        if trainer.stop_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stop_signal = number
        print(
            "\nstopping after this step; press Ctrl-C again to leave without saving",
            file=sys.stderr,
            flush=True,
        )

    signal.signal(signal.SIGINT, request_stop)  # after Paddle's import, which replaces earlier handlers
    signal.signal(signal.SIGTERM, request_stop)


if __name__ == "__main__":
    run(main)
