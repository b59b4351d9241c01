"""Build what an image encoder learns from, and how it is measured: pictures and their classes."""

from pathlib import Path

from paddle import nn
from yacs.config import CfgNode

from config.families import IMAGE_ENCODERS
from datasets.build.image import build_image_dataset, build_image_sampler
from datasets.image_dataset import ClassNames, ImageDataset
from datasets.pictures.picture import Unreadables
from datasets.prefetch import prefetched
from engine.evaluation.image import ImageResult, check_searchable, evaluate_images
from engine.evaluation.protocol import Progress, measured_weights
from engine.runs.checkpoint import check_family, load_model, resolve_checkpoint
from engine.tasks.dual import Batches, Start, Task
from engine.tasks.loading import checkpoint_folder, run_folder, split_name
from engine.weights.cnn_weights import start_cnn
from models.build import build_model


def image_task(cfg: CfgNode, start: Start) -> Task:
    """Return the task of an image encoder: batches by class, of triplets, or at random."""
    training = build_image_dataset(cfg, cfg.DATASET.TRAIN, training=True)
    unreadables = training.loader.unreadables
    dev = build_image_dataset(cfg, cfg.DATASET.DEV, training=False, unreadables=unreadables)
    check_searchable(dev)
    sampler = build_image_sampler(cfg, training, start.rank, start.world_size)
    model = build_model(cfg, 0)
    fresh = not start.resume_from and not cfg.PRETRAINED.DIR
    freeze = start_cnn(model, cfg.MODEL.CNN_WEIGHTS if fresh else "", cfg.MODEL.CNN_FREEZE_EPOCHS)
    if cfg.PRETRAINED.DIR and not start.resume_from:
        load_model(cfg.PRETRAINED.DIR, model, cfg.MODEL.NAME)

    def batches_of(epoch: int, first: int) -> Batches:
        freeze(epoch)
        batches, workers = sampler.batches(epoch), cfg.MISC.NUM_WORKERS
        return len(batches), prefetched(lambda images: training.batch(images, epoch), batches, workers, first)

    def validate(progress: Progress) -> dict[str, float]:
        metrics = evaluate_loaded(cfg, model, dev, None, progress, run_folder(cfg).path).metrics
        for line in unreadables.describe():
            start.say(line)
        return metrics

    return Task(
        model,
        ClassNames(training.class_names),
        training,
        dev,
        batches_of,
        validate,
        sampler.resume_within_epoch,
    )


def is_image_encoder(cfg: CfgNode) -> bool:
    """Tell whether `cfg` is of a model that compares pictures with pictures."""
    return cfg.MODEL.NAME in IMAGE_ENCODERS


def load_image_encoder(cfg: CfgNode) -> tuple[nn.Layer, dict, Path]:
    """Return the trained image encoder that `cfg` names, its state and its folder."""
    folder = checkpoint_folder(cfg)
    check_family(folder, cfg.MODEL.NAME)
    model = build_model(cfg, 0)
    state = load_model(folder, model, cfg.MODEL.NAME)
    model.eval()
    return model, state, resolve_checkpoint(folder)


def evaluate_image_encoder(
    cfg: CfgNode, progress: Progress | None = None, shared: Path | None = None
) -> tuple[ImageResult, dict, list[str]]:
    """Measure the image encoder that `cfg` names on EVAL.SPLIT, searched in EVAL.GALLERY or in itself.

    `shared`: see `evaluate_images`. Returns the result, which weights were measured (as
    `engine.tasks.evaluation.Evaluation` holds it), and a line for each picture that could not be read.
    """
    model, state, folder = load_image_encoder(cfg)
    unreadables = Unreadables(refuse=cfg.INPUT.UNREADABLE == "refuse")
    dataset = build_image_dataset(cfg, split_name(cfg), training=False, unreadables=unreadables)
    gallery = None
    if cfg.EVAL.GALLERY:
        gallery = build_image_dataset(cfg, cfg.EVAL.GALLERY, training=False, unreadables=unreadables)
    check_searchable(dataset, gallery)
    result = evaluate_loaded(cfg, model, dataset, gallery, progress, shared)
    return result, measured_weights(state, folder), unreadables.describe()


def evaluate_loaded(
    cfg: CfgNode,
    model: nn.Layer,
    dataset: ImageDataset,
    gallery: ImageDataset | None = None,
    progress: Progress | None = None,
    shared: Path | None = None,
) -> ImageResult:
    """Measure `model` on `dataset`, searched in `gallery` or in itself, as EVAL says; `shared`: as above."""
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
