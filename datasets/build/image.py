"""Build what a CNN sees from the configuration: cropped and normalised pictures with classes or captions."""

from yacs.config import CfgNode

from config.cnns import expected_pixels
from config.errors import UserError
from config.values import data_path
from datasets.image_dataset import ImageDataset
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import LabelledPictures, class_folders, read_label_list
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.pictures.store import PictureStore
from datasets.pictures.transforms import Normalization, RandomResizedCrop, ResizeCentreCrop, Transform
from datasets.samplers.batches import BatchSampler
from datasets.samplers.classes import ClassSampler, TripletSampler

Sampler = BatchSampler | ClassSampler | TripletSampler


def build_image_dataset(
    cfg: CfgNode, split: str, training: bool, unreadables: Unreadables | None = None
) -> ImageDataset:
    """Open the pictures of a split and their classes.

    `unreadables` collects the pictures that cannot be read. Raises `UserError` for pictures or lists that are
    missing or do not fit together.
    """
    files = picture_files(cfg, split)
    pictures = _labelled(cfg, split, files)
    together = 3 if training and cfg.LOSS.NAME == "triplet" else 1
    loader = build_picture_loader(cfg, files, pictures.names, training, unreadables)
    return ImageDataset(split, loader, pictures, together)


def picture_files(cfg: CfgNode, split: str) -> PictureFiles:
    """Return the pictures in DATASET.IMAGE_DIR."""
    return PictureFiles(data_path(cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR, split))


def build_picture_loader(
    cfg: CfgNode,
    files: PictureFiles,
    names: list[str],
    training: bool,
    unreadables: Unreadables | None = None,
) -> PictureLoader:
    """Return a loader of pictures, cropped and normalised for the CNN, at random in training."""
    unreadables = unreadables or Unreadables(refuse=cfg.INPUT.UNREADABLE == "refuse")
    normalization = Normalization(*expected_pixels(cfg.MODEL.CNN))
    return PictureLoader(files, names, _transform(cfg, training), normalization, unreadables, cfg.MISC.SEED)


def build_picture_store(cfg: CfgNode, split: str, training: bool) -> PictureStore:
    """Open all pictures of a split, to which captions refer by name."""
    files = picture_files(cfg, split)
    return PictureStore(files, build_picture_loader(cfg, files, files.names, training))


def build_image_sampler(cfg: CfgNode, dataset: ImageDataset, rank: int = 0, world_size: int = 1) -> Sampler:
    """Return the sampler of the training batches of process `rank` of `world_size`.

    LOSS.NAME and OPTIMIZATION.SAMPLES_PER_CLASS choose its kind. Raises `UserError` if classes or pictures do
    not fill a batch.
    """
    size, seed = cfg.OPTIMIZATION.BATCH_SIZE, cfg.MISC.SEED
    source = f"{dataset.loader.files.path}, {dataset.name}"
    names = dataset.class_names
    if cfg.LOSS.NAME == "triplet":
        return TripletSampler(dataset.labels, size, seed, rank, world_size, source, names)
    if cfg.OPTIMIZATION.SAMPLES_PER_CLASS:
        each = cfg.OPTIMIZATION.SAMPLES_PER_CLASS
        return ClassSampler(dataset.labels, size, each, seed, rank, world_size, source, names)
    sampler = BatchSampler(dataset.labels * 0, size, "random", seed, rank, world_size)
    if not sampler.steps_per_epoch():
        raise UserError(
            f"{source}: {dataset.num_images} pictures for {world_size} processes, expected at least "
            f"{max(2, world_size)}: add pictures"
        )
    return sampler


def _labelled(cfg: CfgNode, split: str, files: PictureFiles) -> LabelledPictures:
    if not cfg.DATASET.LABEL_FILE:
        return class_folders(files)
    return read_label_list(data_path(cfg.DATASET.DATA_DIR, cfg.DATASET.LABEL_FILE, split), files, split)


def _transform(cfg: CfgNode, training: bool) -> Transform:
    inputs = cfg.INPUT
    if training:
        return RandomResizedCrop(inputs.CROP_SIZE, tuple(inputs.CROP_AREA), flip=inputs.FLIP)
    return ResizeCentreCrop(inputs.RESIZE, inputs.CROP_SIZE)
