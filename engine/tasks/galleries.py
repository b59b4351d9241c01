"""Opens what a trained dual encoder searches: a feature store, a folder of features, or photos."""

from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.files.networks import read_backbone
from config.progress import ShowProgress, no_progress
from datasets.build.dual import build_features
from datasets.build.image import build_picture_loader
from datasets.features.folder import FolderFeatures, read_one
from datasets.features.formats import open_features
from datasets.features.memory import MemoryFeatures
from datasets.features.store import FeatureStore
from datasets.gallery import Gallery
from datasets.pictures.files import ENDINGS, NamedPictures, PictureFiles
from datasets.pictures.picture import describe_unreadable
from datasets.pictures.store import PictureStore
from engine.evaluation.encoder import Encoder
from engine.extraction.recorded import extract_as_recorded, record_of_backbone
from engine.runtime import choose_threads
from engine.tasks import dual
from engine.tasks.loading import split_name
from engine.tasks.task import Say, Trained
from models.kernels.precision import of_inference

STORES = (".h5", ".hdf5", ".npy", ".tsv")


def load_encoder(cfg: CfgNode) -> Encoder:
    """Return the trained dual encoder that `cfg` names; raises UserError as `dual.load` does."""
    return encoder_of(cfg, dual.load(cfg))


def encoder_of(cfg: CfgNode, trained: Trained) -> Encoder:
    """Return the encoder of a model that was loaded already."""
    sees_regions = FAMILIES[cfg.MODEL.NAME].sees_regions
    return Encoder(trained.model, trained.words, cfg.INPUT.MAX_SEQ_LEN, sees_regions, cfg.EVAL.BATCH_SIZE)


class GalleryReader:
    """Reads galleries and query pictures as the model of `cfg` sees them.

    `backbone` is the YAML file of the network that makes features of pictures, for a model that reads
    features; without it the record of the gallery's feature file tells, or of the split's. `say` prints a
    line, such as that on unreadable pictures.
    """

    def __init__(self, cfg: CfgNode, encoder: Encoder, backbone: str | None, say: Say = print) -> None:
        self._cfg, self._encoder, self._backbone, self._say = cfg, encoder, backbone, say
        self._store: FeatureStore | None = None  # that tells how its features were made

    def open(self, path: str | Path, progress: ShowProgress = no_progress) -> Gallery:
        """Return the images of a feature file, a folder with one, a folder of features, or photos.

        Photos are a folder, subfolders included, or a zip file of one. Raises UserError for anything else.
        """
        path = Path(path)
        inside = _stores_in(path) if path.is_dir() else []
        if len(inside) > 1:
            names = ", ".join(store.name for store in inside[:5])
            raise UserError(
                f"{path}: {len(inside)} feature files ({names}), expected one gallery: name one of them"
            )
        if path.suffix in STORES and not path.is_dir():
            inside = [path]
        if inside:
            self._refuse_features(inside[0])
            store = open_features(inside[0], self._cfg.INPUT.IMG_FEATURE_DIM)
            self.use(store)
        elif path.is_dir() and any(path.glob("*.npy")):
            self._refuse_features(path)
            store = FolderFeatures(path, self._cfg.INPUT.IMG_FEATURE_DIM)
            self.use(store)
        else:
            store = self._store_of(PictureFiles(path), refuse=False, progress=progress)
        return self._encoder.gallery_of(store, str(path))

    def use(self, store: FeatureStore) -> None:
        """Let a store tell how features are made of query pictures."""
        self._store = store

    def encode_file(self, path: str | Path) -> np.ndarray:
        """Return the embedding [1,D] of a picture, or of an image's features in a .npy file."""
        if Path(path).suffix == ".npy":
            self._refuse_features(path)
            return self._encoder.encode_images([read_one(path, self._cfg.INPUT.IMG_FEATURE_DIM)])
        store = self._store_of(NamedPictures([path]), refuse=True)
        return self._encoder.encode_gallery(self._encoder.gallery_of(store))

    def _refuse_features(self, path: str | Path) -> None:
        if self._cfg.MODEL.CNN:
            raise UserError(
                f"{path}: features, but MODEL.CNN={self._cfg.MODEL.CNN} reads pictures: name pictures"
            )

    def _store_of(
        self, files: PictureFiles, refuse: bool, progress: ShowProgress = no_progress
    ) -> FeatureStore:
        """Return pictures as the model takes them: their pixels, or features made as the model's own were."""
        if self._cfg.MODEL.CNN:
            loader = build_picture_loader(self._cfg, files, files.names, training=False)
            return PictureStore(files, loader)
        record, source = self._record(files)
        names, vectors, has_regions, problems = extract_as_recorded(
            record, source, files, refuse, choose_threads(), progress
        )
        for line in describe_unreadable(problems):
            self._say(line)
        if not names:
            raise UserError(f"{files.path}: no readable picture among {len(files.names)}")
        return MemoryFeatures(vectors, names, files.path, has_regions, self._cfg.INPUT.IMG_FEATURE_DIM)

    def _record(self, files: PictureFiles) -> tuple[dict, Path]:
        """Return the record of an extraction and the file that tells it; raise UserError without any."""
        cfg = self._cfg
        if self._backbone:
            if self._encoder.sees_regions:
                raise UserError(
                    f"--backbone: MODEL.NAME={cfg.MODEL.NAME} needs regions, and a backbone makes one vector "
                    "a picture: take a gallery that tools/extract_features.py made with --grid or --detector"
                )
            backbone = read_backbone(self._backbone)
            return record_of_backbone(backbone, of_inference()), Path(self._backbone)
        store = self._store or build_features(cfg, split_name(cfg))
        if store.extraction is None:
            raise UserError(
                f"{store.path} does not tell which network made its {store.dim} features, and "
                f"{files.names[0]} needs the same: name that network's YAML file with --backbone, or extract "
                "the features with tools/extract_features.py"
            )
        return store.extraction, store.path


def _stores_in(folder: Path) -> list[Path]:
    """Return the feature files that lie in a folder; those of single images are none."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if path.suffix in STORES[:2] or path.name.endswith("_ims.npy")]


def is_picture(path: str | Path) -> bool:
    """Tell whether a file's ending is that of a picture."""
    return str(path).lower().endswith(ENDINGS)
