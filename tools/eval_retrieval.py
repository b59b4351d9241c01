"""Evaluate a trained model, or several as an ensemble, on a split: recalls and ranks in both directions.

    python tools/eval_retrieval.py --cfg_file out/scenes_vsepp/config.yaml
    python tools/eval_retrieval.py --cfg_file configs/coco/vsepp.yaml EVAL.SPLIT=test EVAL.FOLDS=5
    python tools/eval_retrieval.py --cfg_file F --save_scores scores.npz
    python tools/eval_retrieval.py --cfg_file F --protocol coco_1k eccv --protocol_data eccv_caption/data
    python tools/eval_retrieval.py --checkpoints out/a/best out/b/best --tune_weights --out out/a_and_b
    python tools/eval_retrieval.py --cfg_file F EVAL.RERANK_DIR=out/scenes_oscar/best EVAL.RERANK_K=20

The tool writes result.json, the rank of every query as ranks.npz, and what each found first as lists.npz,
into <run>/eval_<split>/ (or --out).
The checkpoint is EVAL.CHECKPOINT_DIR, or <run>/best if that is empty. With several --checkpoints the
similarities are averaged: each model is loaded with the config.yaml of its run, EVAL and RUNTIME are those of
the first, and KEY=VALUE applies to all.
A cross encoder (oscar) scores every pair; after a kill, the same command resumes the evaluation. With
EVAL.RERANK_DIR it re-ranks the short lists of a dual encoder instead.
An image encoder (cnn) searches each picture of the split among the others, or among those of EVAL.GALLERY.
python -m paddle.distributed.launch shares the work among processes (docs/distributed.md).
"""

import argparse
import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run, start_runtime
from _progress import progress_display
from yacs.config import CfgNode

from config.command_line import WHERE, split_overrides
from config.errors import UserError
from config.families import FAMILIES
from config.files.whole import write_whole
from config.load import (
    FrozenConfig,
    add_config_arguments,
    config_as_dict,
    config_from_arguments,
    configs_of_checkpoints,
)
from config.values import user_error
from engine.runtime import Runtime

if TYPE_CHECKING:
    from engine.tasks.task import Measured
    from engine.evaluation.dual import PrecisionCheck


def main() -> int:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--checkpoints", nargs="+", metavar="DIR", help="checkpoint folders <run>/best; instead of --cfg_file"
    )
    weighting = parser.add_mutually_exclusive_group()
    weighting.add_argument(
        "--weights",
        nargs="+",
        metavar="W",
        help="weight of each checkpoint, above 0 (default: equal weights)",
    )
    weighting.add_argument(
        "--tune_weights", action="store_true", help="choose the weights that are best on the dev split"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for result.json (default: <run>/eval_<split>; ensembles need it)"
    )
    parser.add_argument(
        "--save_scores", metavar="F.npz", help="also write the scores [images, captions] with their ids"
    )
    parser.add_argument(
        "--protocol", nargs="+", metavar="NAME", help="also count these protocols (docs/protocols.md)"
    )
    parser.add_argument(
        "--protocol_data", type=Path, metavar="DIR", help="--data of tools/recount.py, for cxc and eccv"
    )
    parser.add_argument("--objects", type=Path, metavar="F.json", help="--objects of tools/recount.py")
    parser.add_argument(
        "--check_precision",
        type=int,
        metavar="N",
        help="also encode N captions and the images in float32 and in bfloat16, and say what differs",
    )
    arguments = parser.parse_args()
    cfgs, weights = read_members(arguments)
    runtime = start_runtime(cfgs[0])
    leave_on_sigterm()
    return evaluate(cfgs, runtime, weights, arguments)


def read_members(arguments: argparse.Namespace) -> tuple[list[FrozenConfig], list[float] | None]:
    """Return the configuration of each checkpoint, and the weights, None if the user gave none.

    Raises UserError for options that do not go together.
    """
    folders, after_folders = split_overrides(arguments.checkpoints)
    words, after_words = split_overrides(arguments.weights)
    arguments.protocol, after_names = split_overrides(arguments.protocol)
    arguments.overrides = [*after_folders, *after_words, *after_names, *arguments.overrides]
    if arguments.checkpoints is None:
        cfgs = [config_from_arguments(arguments)]
    elif arguments.cfg_file is not None:
        raise user_error(
            WHERE,
            "expected --cfg_file or --checkpoints, got both; a checkpoint has the config.yaml of its run",
        )
    else:
        cfgs = configs_of_checkpoints(folders, arguments.overrides)
    if len(cfgs) == 1 and (arguments.weights is not None or arguments.tune_weights):
        raise user_error(WHERE, "--weights and --tune_weights: expected several --checkpoints, got one")
    if len(cfgs) > 1 and arguments.out is None:
        raise user_error(WHERE, "expected --out DIR for the result.json of several checkpoints, got none")
    if arguments.check_precision is not None:
        check_lone_dual(cfgs, arguments.check_precision)
    return cfgs, None if arguments.weights is None else read_weights(words, len(cfgs))


def check_lone_dual(cfgs: Sequence[CfgNode], count: int) -> None:
    """Raise UserError unless `--check_precision` has a number, and one dual encoder to check."""
    if count < 1:
        raise user_error(WHERE, f"--check_precision: expected at least 1 caption, got {count}")
    if len(cfgs) > 1 or FAMILIES[cfgs[0].MODEL.NAME].kind != "dual":
        came = "several checkpoints" if len(cfgs) > 1 else cfgs[0].MODEL.NAME
        raise user_error(WHERE, f"--check_precision: expected one dual encoder, got {came}")


def read_weights(words: Sequence[str], members: int) -> list[float]:
    """Return `words` as numbers; raise UserError unless there is one above 0 for each member."""
    weights = []
    for word in words:
        with contextlib.suppress(ValueError):
            weights.append(float(word))
    if len(weights) != members or len(words) != members or not all(0 < each < math.inf for each in weights):
        expected = f"expected a number above 0 for each of the {members} checkpoints"
        raise user_error(WHERE, f"--weights: {expected}, got {' '.join(words) or 'none'}")
    return weights


def evaluate(
    cfgs: Sequence[CfgNode],
    runtime: Runtime,
    weights: Sequence[float] | None,
    arguments: argparse.Namespace,
) -> int:
    """Evaluate the checkpoints that `cfgs` name; print the table and write result.json."""
    from engine.parallel.processes import is_main, start_process_group
    from engine.protocols.measure import check_protocols
    from engine.tasks.kinds import kind_of
    from engine.tasks.loading import run_folder
    from engine.tasks.task import EvaluationOptions
    from models.kernels.precision import check_bfloat16

    cfg, tune, scores_path = cfgs[0], arguments.tune_weights, arguments.save_scores
    if arguments.protocol:
        data, objects = arguments.protocol_data, arguments.objects
        check_protocols(arguments.protocol, data, objects, data_option="--protocol_data")
    path = Path(arguments.out or run_folder(cfg).path / f"eval_{cfg.EVAL.SPLIT}") / "result.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error
    say = print_line if is_main() else ignore
    if arguments.check_precision is not None:
        check_bfloat16("--check_precision")  # here, so that it loses no evaluation
    say(runtime.describe())
    start_process_group()
    if arguments.protocol and not scores_path:
        scores_path = str(path.parent / "protocol_scores.npz")
    with progress_display() if is_main() else contextlib.nullcontext() as show:
        options = EvaluationOptions(path.parent / "scores", weights, tune, scores_path, show, say)
        found = kind_of(cfg).measure(cfgs, options)
    if found is None:  # the first process alone has the result
        return 0
    if arguments.check_precision is not None:
        checked = precision_of(cfg, arguments.check_precision)
        found.further["precision_check"] = asdict(checked)
        found.lines.append(checked.describe())
    write_files(path, found, cfg)
    print("\n".join(found.lines), flush=True)
    if arguments.protocol:  # last, so that what does not fit a protocol loses no result
        add_protocols(path, found, cfg, Path(scores_path), arguments)
    print(f"written: {path}" + (f" and {scores_path}" if arguments.save_scores else ""))
    return 0


def write_files(path: Path, found: "Measured", cfg: CfgNode) -> None:
    """Write result.json to `path`, the ranks and lists beside it, and the checkpoint's card."""
    from engine.certificates.stored import RANKS_FILE, write_ranks
    from engine.inspection.kept_lists import LISTS_FILE, write_lists

    write_result(path, found, cfg)
    if found.result.sides:
        write_ranks(path.parent / RANKS_FILE, found.result.sides, cfg.EVAL.TIE_RULE, found.names)
    if found.lists:
        write_lists(path.parent / LISTS_FILE, found.lists)
    if found.reranked:
        write_reranked(path.parent / "reranked", found, cfg)
    write_card(path, found.checkpoint)
    if found.pair_scores:
        found.pair_scores.delete()


def write_result(path: Path, found: "Measured", cfg: CfgNode) -> None:
    """Write result.json to `path`."""
    from engine.evaluation.result import versions, write_result_json

    write_result_json(path, found.result, found.checkpoint, config_as_dict(cfg), versions(), found.further)


def write_reranked(folder: Path, found: "Measured", cfg: CfgNode) -> None:
    """Write result.json and ranks.npz after re-ranking, to be compared with those of the first stage."""
    from engine.certificates.stored import RANKS_FILE, write_ranks
    from engine.evaluation.result import versions, write_result_json

    folder.mkdir(exist_ok=True)
    entry, config = found.further["rerank"], config_as_dict(cfg)
    certificate = {"certificate": entry["certificate"]} if "certificate" in entry else {}
    path = folder / "result.json"
    write_result_json(path, found.reranked, entry["checkpoint"], config, versions(), certificate)
    write_ranks(folder / RANKS_FILE, found.reranked.sides, cfg.EVAL.TIE_RULE, found.names)


def precision_of(cfg: CfgNode, count: int) -> "PrecisionCheck":
    """Return what bfloat16 changes for `count` captions of the evaluated split."""
    from datasets.build.dual import build_dataset
    from engine.evaluation.dual import check_precision
    from engine.tasks.loading import load_trained, split_name

    trained = load_trained(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    return check_precision(trained.model, dataset, count, cfg.EVAL.BATCH_SIZE)


def write_card(path: Path, checkpoint: dict) -> None:
    """Write the card of the checkpoint that the result at `path` measured beside the checkpoint's folder."""
    from engine.certificates.card import model_card

    if "folder" not in checkpoint:  # an ensemble
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    card = Path(checkpoint["folder"]).with_suffix(".md")
    with contextlib.suppress(OSError):  # such as a checkpoint on a disk that cannot be written to
        write_whole(card, model_card(content))


def add_protocols(
    path: Path, found: "Measured", cfg: CfgNode, scores: Path, arguments: argparse.Namespace
) -> None:
    """Count the protocols from the file `scores`, print them, and add them to the result.json at `path`.

    `scores` is deleted then unless the user wants it. Raises UserError for a protocol that does not fit.
    """
    from engine.protocols.measure import measure_protocols
    from engine.protocols.protocols import Request
    from engine.protocols.scored import read_scores

    try:
        scored = replace(read_scores(scores), path=Path(f"split {cfg.EVAL.SPLIT}"))  # as messages name it
        data, objects = arguments.protocol_data, arguments.objects
        request = Request(scored, cfg.EVAL.TIE_RULE, data=data, objects=objects)
        counted = measure_protocols(request, arguments.protocol, cfg.EVAL.RESAMPLES, cfg.MISC.SEED)
    except UserError as error:
        raise UserError(
            f"--protocol: {error}; {path} has the result without protocols, and {scores} the scores, from "
            "which tools/recount.py counts others"
        ) from error
    found.further["protocols"] = {each.name: each.as_dict() for each in counted}
    write_result(path, found, cfg)
    print("\n".join(line for each in counted for line in each.lines()))
    if not arguments.save_scores:
        scores.unlink(missing_ok=True)


def print_line(line: str) -> None:
    """Print a line and flush it."""
    print(line, flush=True)


def ignore(line: str) -> None:
    """Print nothing: the first process alone prints lines."""


if __name__ == "__main__":
    run(main)
