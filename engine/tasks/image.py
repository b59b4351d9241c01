"""Image encoders, which find pictures of the same class: train, load, measure, and report on a run."""

from collections.abc import Sequence
from pathlib import Path

from paddle import nn
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.progress import ShowProgress
from datasets.build.image import build_image_dataset, build_image_sampler
from datasets.image_dataset import ClassNames, ImageDataset
from datasets.pictures.picture import Unreadables
from datasets.prefetch import prefetched
from engine.evaluation.image import ImageResult, check_searchable, evaluate_images, format_images
from engine.evaluation.result import describe_checkpoint
from engine.parallel.processes import is_main
from engine.runs.checkpoint import start_from
from engine.runs.run_folder import RunFolder, read_log
from engine.tasks.certificates import behind, certificate_entry, certified
from engine.tasks.loading import checkpoint_folder, load_trained, run_folder, split_name
from engine.tasks.task import Batches, EvaluationOptions, Measured, ReportedRun, Start, Task, Trained
from engine.weights.cnn_weights import start_cnn
from models.build import build_loss, build_model


def training(cfg: CfgNode, start: Start) -> Task:
    """Return the task of an image encoder: batches of pictures that are drawn by class or at random."""
    data = build_image_dataset(cfg, cfg.DATASET.TRAIN, training=True)
    unreadables = data.loader.unreadables
    dev = build_image_dataset(cfg, cfg.DATASET.DEV, training=False, unreadables=unreadables)
    check_searchable(dev)
    sampler = build_image_sampler(cfg, data, start.rank, start.world_size)
    model = build_model(cfg, 0)
    fresh = not start.resume_from and not cfg.PRETRAINED.DIR
    freeze = start_cnn(model, cfg.MODEL.CNN_WEIGHTS if fresh else "", cfg.MODEL.CNN_FREEZE_EPOCHS)
    if cfg.PRETRAINED.DIR and not start.resume_from:
        start.say(start_from(cfg.PRETRAINED.DIR, model, cfg.MODEL.NAME))
    classes = ClassNames(data.class_names)

    def batches_of(epoch: int, first: int) -> Batches:
        freeze(epoch)
        batches, workers = sampler.batches(epoch), cfg.MISC.NUM_WORKERS
        return len(batches), prefetched(lambda images: data.batch(images, epoch), batches, workers, first)

    def validate(progress: ShowProgress) -> dict[str, float]:
        metrics = _evaluate(cfg, model, dev, None, progress, run_folder(cfg).path).metrics
        for line in unreadables.describe():
            start.say(line)
        return metrics

    return Task(
        model=model,
        loss=build_loss(cfg, model.embed_dim, len(classes)),
        words=classes,
        unit="classes",
        training=data,
        dev=dev,
        samples=data.num_images,
        batches_of=batches_of,
        validate=validate,
        resume_within_epoch=sampler.resume_within_epoch,
    )


def load(cfg: CfgNode) -> Trained:
    """Return the trained image encoder that `cfg` names."""
    return load_trained(cfg)


def measure(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> Measured | None:
    """Measure the image encoder of `cfgs`: search EVAL.GALLERY, or EVAL.SPLIT itself, for EVAL.SPLIT.

    Processes of a launched job share the work; all but the first return None.
    """
    if len(cfgs) > 1 or options.scores_path:
        problem = "--save_scores or --protocol" if options.scores_path else f"{len(cfgs)} --checkpoints"
        raise UserError(
            "command line: expected one checkpoint and no --save_scores with an image encoder (nor "
            f"--protocol), got {problem}"
        )
    cfg = cfgs[0]
    trained = load(cfg)
    dataset, gallery, unreadables = _open(cfg)
    result = _evaluate(cfg, trained.model, dataset, gallery, options.show, options.shards.parent)
    if not is_main():
        return None
    lines = [
        *unreadables.describe(),
        describe_checkpoint(trained.checkpoint, result.protocol),
        format_images(result),
    ]
    certificate = certified(cfg, result.sides, over="classes")
    lines += certificate.lines() if certificate else []
    names = {"queries": [dataset.image_ids[place] for place in result.queries.places]}
    return Measured(result, trained.checkpoint, lines, certificate_entry(certificate), names=names)


def reports(cfg: CfgNode) -> ReportedRun:
    """Measure the best checkpoint of a run on its EVAL.SPLIT, and return what a report shows."""
    if FAMILIES[cfg.MODEL.NAME].kind != "image":
        raise UserError(
            f"expected image encoders alone in their report, got {cfg.MODEL.NAME}: write one on each"
        )
    trained = load(cfg)
    dataset, gallery, _ = _open(cfg)
    result = _evaluate(cfg, trained.model, dataset, gallery)
    log = read_log(RunFolder(checkpoint_folder(cfg).parent).log_file)
    known = behind(cfg, trained.checkpoint, result.sides, over="classes")
    return ReportedRun(
        trained.model, trained.checkpoint, dataset, result, log, gallery=gallery or dataset, **known
    )


def _open(cfg: CfgNode) -> tuple[ImageDataset, ImageDataset | None, Unreadables]:
    """Return EVAL.SPLIT, EVAL.GALLERY if there is one, and the list of their unreadable pictures."""
    unreadables = Unreadables(refuse=cfg.INPUT.UNREADABLE == "refuse")
    dataset = build_image_dataset(cfg, split_name(cfg), training=False, unreadables=unreadables)
    gallery = None
    if cfg.EVAL.GALLERY:
        gallery = build_image_dataset(cfg, cfg.EVAL.GALLERY, training=False, unreadables=unreadables)
    check_searchable(dataset, gallery)
    return dataset, gallery, unreadables


def _evaluate(
    cfg: CfgNode,
    model: nn.Layer,
    dataset: ImageDataset,
    gallery: ImageDataset | None = None,
    progress: ShowProgress | None = None,
    shared: Path | None = None,
) -> ImageResult:
    return evaluate_images(
        model,
        dataset,
        gallery,
        cfg.EVAL.TIE_RULE,
        cfg.EVAL.BATCH_SIZE,
        cfg.EVAL.BLOCK_SIZE,
        cfg.MISC.NUM_WORKERS,
        progress,
        shared,
    )
