"""Find all that is wrong with a data set's folder before training; no file of features is loaded whole."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.progress import ShowProgress, no_progress
from datasets.build.cross import open_pair_split
from datasets.build.dual import build_features, load_split
from datasets.build.image import build_image_dataset, build_picture_store, picture_files
from datasets.build.known_sets import KNOWN_SETS
from datasets.captions.listing import read_karpathy
from datasets.captions.load import CaptionSplit, caption_path
from datasets.features.store import FeatureStore
from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import Picture, UnreadableError

SHOWN = 5


@dataclass
class Findings:
    """What was found: `wrong` must be mended, `notes` should be known, `facts` say what is there."""

    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Let a `UserError` of a `with` block be a finding; a message is kept once."""
        try:
            yield
        except UserError as error:
            if str(error) not in self.wrong:
                self.wrong.append(str(error))


@dataclass
class SplitContent:
    """What two splits are compared by: images' names (None if they have none), sentences, and features.

    `sentences` are names of classes where pictures have those, as `unit` tells. `prints` maps the fingerprint
    of an image's features to its row in `features`, which decides whether two images are the same.
    """

    name: str
    ids: list[str] | None
    sentences: set[str] = field(default_factory=set)
    features: FeatureStore | None = None
    prints: dict[bytes, int] = field(default_factory=dict)
    unit: str = "sentences"


def check_data(cfg: CfgNode, values: bool = True, progress: ShowProgress = no_progress) -> Findings:
    """Return all that is found in the folder of DATASET, split by split and across splits.

    `values` also reads every feature (or every picture's header), and compares the images of the splits by
    their features.
    """
    findings = Findings()
    names = dict.fromkeys((cfg.DATASET.TRAIN, cfg.DATASET.DEV, cfg.DATASET.TEST))
    kind = FAMILIES[cfg.MODEL.NAME].kind
    check = _check_picture_split if kind == "image" else _check_caption_split
    contents = [check(cfg, name, findings, values, progress) for name in names]
    found = [content for content in contents if content is not None]
    for first, second in combinations(found, 2):
        # A validation may look at a part of the test pictures, as with Stanford Online Products.
        own = kind == "image" and {first.name, second.name} == {cfg.DATASET.DEV, cfg.DATASET.TEST}
        _compare(first, second, findings.notes if own else findings.wrong, findings.notes)
    if cfg.DATASET.FORMAT == "karpathy":
        _check_restval(cfg, findings)
    return findings


def _check_caption_split(
    cfg: CfgNode, split: str, findings: Findings, values: bool, progress: ShowProgress
) -> SplitContent | None:
    """Check a split of images with captions; return None where it cannot be read."""
    features = captions = None
    with findings.collecting():
        features, captions = _open(cfg, split, findings)
    _check_caption_lines(cfg, split, findings)
    if features is None:
        return None
    rows = None if captions is None else captions.image_rows
    prints = {}
    if values and not cfg.MODEL.CNN:
        prints = _check_values(features, rows, split, findings, progress)
    elif values:
        names = features.image_ids if rows is None else [features.image_ids[row] for row in rows]
        _check_pictures(picture_files(cfg, split), names, split, findings, progress)
    if captions is None:
        return None
    _describe(cfg, captions, features, findings)
    _check_count(cfg, split, len(captions.image_ids), len(captions.captions), findings)
    named = captions.image_ids != list(map(str, range(len(captions.image_ids))))
    if not named:
        findings.notes.append(
            f"{split}: nothing names the images, so captions belong to rows by their order alone, and images "
            f"of other splits are told by their features: write {split}_ids.txt"
        )
    return SplitContent(
        split, captions.image_ids if named else None, set(captions.captions), features, prints
    )


def _open(cfg: CfgNode, split: str, findings: Findings) -> tuple[FeatureStore, CaptionSplit | None]:
    """Open the features of a split and tie its captions to them; None for captions that do not fit."""
    training = split == cfg.DATASET.TRAIN
    if FAMILIES[cfg.MODEL.NAME].kind == "cross":
        opened = open_pair_split(cfg, split, training)
        with findings.collecting():
            for _ in opened.tags() or ():
                pass
        return opened.features, opened.captions
    features = build_picture_store(cfg, split, False) if cfg.MODEL.CNN else build_features(cfg, split)
    if FAMILIES[cfg.MODEL.NAME].sees_regions and features.max_regions is None:
        findings.wrong.append(
            f"{features.path}: one vector an image, but MODEL.NAME={cfg.MODEL.NAME} needs regions: extract "
            "them"
        )
    captions = None
    with findings.collecting():
        captions = load_split(cfg, split, features, training)
    return features, captions


def _check_caption_lines(cfg: CfgNode, split: str, findings: Findings) -> None:
    """Find all empty lines and lines that are not UTF-8, of which opening names the first alone."""
    if cfg.DATASET.FORMAT != "precomp":
        return
    path = caption_path("precomp", cfg.DATASET.DATA_DIR, split, "")
    if not path.is_file():
        return
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    foreign = [number for number, line in enumerate(lines, start=1) if not _is_utf8(line)]
    for what, numbers in (("empty lines", empty), ("lines that are not UTF-8", foreign)):
        if len(numbers) > 1:
            findings.wrong.append(f"{path}: {len(numbers)} {what}: {_some(numbers)}")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _describe(cfg: CfgNode, captions: CaptionSplit, features: FeatureStore, findings: Findings) -> None:
    """Say what a split holds, and how rows, images and captions belong together."""
    images, split = len(captions.image_ids), captions.name
    counts = np.bincount(captions.caption_image, minlength=images)
    fewest, most = int(counts.min()), int(counts.max())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    findings.facts.append(
        f"{split}: {images:,} images ({features.describe(captions.image_rows)}, {features.dtype}), "
        f"{len(captions.captions):,} captions, {each} an image"
    )
    if fewest == 0:
        silent = [captions.image_ids[place] for place in np.flatnonzero(counts == 0)]
        findings.wrong.append(f"{split}: {len(silent):,} images without a caption: {_some(silent)}")
    by_order = cfg.DATASET.FORMAT == "precomp" and features.row_of is None
    if by_order and len(features) == len(captions.captions) > images:
        findings.notes.append(
            f"{split}: {len(features):,} rows for {len(captions.captions):,} captions: an image's row is "
            f"repeated for each of its captions; the {images:,} different images are counted once"
        )
        if fewest != most:
            odd = [captions.image_ids[place] for place in np.flatnonzero(counts != np.median(counts))]
            findings.wrong.append(
                f"{split}: rows repeat {each} times, expected as many for each image; others than most: "
                f"{_some(odd)}: two images with equal features stand together, or a row is missing"
            )
    elif by_order and len(features) > images:
        findings.notes.append(f"{split}: {len(features) - images:,} rows of {features.path} have no captions")


def _check_count(cfg: CfgNode, split: str, images: int, captions: int, findings: Findings) -> None:
    known = KNOWN_SETS.get(cfg.DATASET.NAME)
    if known is None or split not in known.images:
        return
    expected = known.images[split]
    if images not in expected:
        other = next((name for name, counts in known.images.items() if images in counts), None)
        hint = f", which is what {other} holds" if other else ""
        findings.wrong.append(
            f"{split}: {images:,} images{hint}, expected {' or '.join(map('{:,}'.format, expected))} of "
            f"{cfg.DATASET.NAME} ({known.source}): get the missing files, or give a part another DATASET.NAME"
        )
    surprise = known.surprise(split, images, captions, cfg.EVAL.FOLDS if split == cfg.DATASET.TEST else 1)
    if surprise:
        findings.notes.append(surprise)


def _check_values(
    features: FeatureStore,
    rows: np.ndarray | None,
    split: str,
    findings: Findings,
    progress: ShowProgress,
) -> dict[bytes, int]:
    """Read the features of all `rows` once, block by block; return the fingerprints, with the rows.

    A fingerprint is that of an image's first vector: a checksum of all would take longer than reading them.
    """
    order = np.unique(np.arange(len(features)) if rows is None else rows)
    broken, zero, again, prints, done = [], [], [], {}, 0
    for block in features.blocks(order):
        for row, values in _readable(features, block, broken):
            if not values[0, 0] and not values.any():
                zero.append(row + 1)
                continue
            first = prints.setdefault(hashlib.blake2b(values[0]).digest(), row)
            if first != row and _are_same(features, first, features, row):
                again.append(row + 1)
        done += len(block)
        progress(f"reading {split}", done, len(order))
    where = features.path
    if broken:
        findings.wrong.append(f"{where}: {len(broken):,} rows with NaN or infinity: {_some(broken)}")
    if zero:
        findings.wrong.append(
            f"{where}: {len(zero):,} rows of zeros alone: {_some(zero)}: extract them again"
        )
    if again:
        findings.notes.append(
            f"{split}: images whose features are exactly those of another of the split, {len(again):,}: "
            f"rows {_some(again)}"
        )
    return prints


def _are_same(first: FeatureStore, one: int, second: FeatureStore, other: int) -> bool:
    return np.array_equal(first.vectors(np.array([one])), second.vectors(np.array([other])))


def _readable(
    features: FeatureStore, block: np.ndarray, broken: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each row of a block with its values [R,F]; the numbers of rows with NaN are added to `broken`."""
    ends = np.cumsum(features.counts(block))
    try:
        values = features.vectors(block)
    except UserError:
        for row in block.tolist():
            try:
                yield row, features.vectors(np.array([row]))
            except UserError:
                broken.append(row + 1)
        return
    yield from zip(block.tolist(), np.split(values, ends[:-1]), strict=True)


def _check_picture_split(
    cfg: CfgNode, split: str, findings: Findings, values: bool, progress: ShowProgress
) -> SplitContent | None:
    """Check a split of pictures with classes; return None where it cannot be read."""
    dataset = None
    with findings.collecting():
        dataset = build_image_dataset(cfg, split, training=False)
    if dataset is None:
        return None
    sizes = np.bincount(dataset.labels)
    findings.facts.append(
        f"{split}: {dataset.num_images:,} pictures of {len(sizes):,} classes, {sizes.min()} to {sizes.max()} "
        "each"
    )
    alone = [dataset.class_names[label] for label in np.flatnonzero(sizes == 1)]
    if alone and split == cfg.DATASET.TEST:
        findings.notes.append(
            f"{split}: {len(alone):,} classes of one picture, which find none: {_some(alone)}"
        )
    _check_count(cfg, split, dataset.num_images, 0, findings)
    if values:
        _check_pictures(dataset.loader.files, dataset.loader.names, split, findings, progress)
    return SplitContent(split, list(dataset.loader.names), set(dataset.class_names), unit="classes")


def _check_pictures(
    files: PictureFiles, names: Sequence[str], split: str, findings: Findings, progress: ShowProgress
) -> None:
    """Read the header of each picture."""
    broken = []
    for done, name in enumerate(names, start=1):
        try:
            Picture(files.read(name))
        except UnreadableError as error:
            broken.append(f"{name} ({error})")
        progress(f"opening {split}", done, len(names))
    if broken:
        findings.wrong.append(
            f"{files.path}: {len(broken):,} unreadable pictures of {split}: {_some(broken)}"
        )


def _compare(first: SplitContent, second: SplitContent, wrong: list[str], notes: list[str]) -> None:
    """Find images and sentences that stand in two splits."""
    pair = f"{first.name} and {second.name}"
    if first.ids is not None and second.ids is not None:
        own = set(first.ids)
        shared = [image for image in dict.fromkeys(second.ids) if image in own]
        if shared:
            wrong.append(f"{pair}: {len(shared):,} images are in both: {_some(shared)}")
    alike = [(first.prints[mark], row) for mark, row in second.prints.items() if mark in first.prints]
    same = [(one, other) for one, other in alike if _are_same(first.features, one, second.features, other)]
    if same:
        rows = [f"{one + 1} and {other + 1}" for one, other in same]
        wrong.append(
            f"{pair}: {len(same):,} images of both have exactly the same features, rows {_some(rows)}: "
            "remove them from one of the splits"
        )
    repeated = len(first.sentences & second.sentences)
    if repeated:
        share = repeated / max(1, len(second.sentences))
        what = f"{repeated:,} of the {len(second.sentences):,} different {second.unit} of {second.name}"
        notes.append(f"{what} ({share:.0%}) are those of {first.name} too")


def _check_restval(cfg: CfgNode, findings: Findings) -> None:
    """Note that Karpathy's file has images of the split restval which are not trained on."""
    if cfg.DATASET.USE_RESTVAL:
        return
    try:
        path = caption_path("karpathy", cfg.DATASET.DATA_DIR, cfg.DATASET.TRAIN, cfg.DATASET.CAPTION_FILE)
        images = len(read_karpathy(path, ("restval",)).names["filename"])
    except UserError:
        return
    findings.notes.append(
        f"{path}: {images:,} images of the split restval are not trained on; papers do: "
        "DATASET.USE_RESTVAL=true"
    )


def _some(names: Sequence[object]) -> str:
    """Return the first five names, and the number of the others."""
    shown = ", ".join(map(str, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
