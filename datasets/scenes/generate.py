"""Scenes: a generated data set of pictures of a few objects, with captions, regions, tags and classes.

It has the layout of the `*_precomp` folders, so that every loader reads it; `docs/scenes.md` describes the
files. The splits share no set of objects, and all content follows from `ScenesOptions`.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from typing import BinaryIO

import numpy as np

from config.errors import UserError, cut
from config.files.whole import replacing
from config.progress import ShowProgress, no_progress
from datasets.scenes.captions import captions_of, swapped_pairs
from datasets.scenes.layout import (
    COLOURS,
    FAMILY,
    PATTERNS,
    SHAPES,
    SIZES,
    SPLITS,
    TINTS,
    Scene,
    sample_scene,
)
from datasets.scenes.pictures import draw_scene, object_box
from datasets.scenes.regions import (
    APPEARANCE_DIM,
    BOX_TERMS,
    FEATURE_DIM,
    NUM_REGIONS,
    Region,
    detect_regions,
    region_features,
)

VERSION = 1
IMAGE_SIZES = (48, 1024)
_TEXTS = ("caps.txt", "ids.txt", "class.txt", "tags.txt", "scenes.jsonl", "swapped.jsonl")
_BLOCK_PIXELS = 600_000  # of the pictures whose features are computed together: bounds the memory


@dataclass(frozen=True)
class ScenesOptions:
    """What is generated: the images in each split, the seed, and the side of a picture in pixels."""

    train: int = 2000
    dev: int = 200
    test: int = 200
    seed: int = 0
    image_size: int = 96

    def __post_init__(self) -> None:
        """Raise UserError where a value is out of range."""
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise UserError(
                    f"expected at least 1 image, got {split}={getattr(self, split)}: give a larger number"
                )
        if self.seed < 0:
            raise UserError(f"expected a seed of 0 or more, got seed={self.seed}")
        low, high = IMAGE_SIZES
        if not low <= self.image_size <= high:
            raise UserError(f"expected a picture of {low} to {high} pixels, got image_size={self.image_size}")


def make_scenes(
    folder: Path,
    options: ScenesOptions,
    force: bool = False,
    processes: int = 1,
    progress: ShowProgress = no_progress,
) -> bool:
    """Generate a data set; return False if `folder` already holds the same one.

    The files are written beside the folder, and renamed when they are complete: an interrupted call leaves
    nothing behind. `force` replaces an existing Scenes folder. The result does not depend on `processes`.
    Raises UserError if the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if _holds_scenes(folder, options, force):
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder, flush=False) as draft:  # many small files, which can be generated again
            (draft / "images").mkdir(parents=True)
            for split in SPLITS:
                _write_split(draft, split, options, processes, progress)
            (draft / "meta.json").write_text(json.dumps(_meta(options), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write Scenes to {folder}: {error.strerror or error}") from error
    return True


def _holds_scenes(folder: Path, options: ScenesOptions, force: bool) -> bool:
    """Return whether the folder holds this very data set; raise UserError if it may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or meta.get("format") != "scenes":
        raise UserError(f"expected a Scenes folder or none, got other files in {folder}: name another --out")
    if force:
        return False
    found = meta.get("options") if isinstance(meta.get("options"), dict) else {}
    found = {"version": meta.get("version"), **found}
    wanted = {"version": VERSION, **asdict(options)}
    if found == wanted:
        return True
    differences = ", ".join(
        f"{key}={cut(found.get(key))} (wanted {wanted[key]})"
        for key in wanted
        if found.get(key) != wanted[key]
    )
    raise UserError(
        f"{folder} holds other Scenes, {differences}: give --force to replace them, or another --out"
    )


def _meta(options: ScenesOptions) -> dict:
    return {
        "format": "scenes",
        "version": VERSION,
        "options": asdict(options),
        "regions": NUM_REGIONS,
        "feature_dim": FEATURE_DIM,
        "appearance_dim": APPEARANCE_DIM,
        "box_terms": BOX_TERMS,
        "colours": COLOURS,
        "shapes": SHAPES,
        "sizes": tuple(SIZES),
        "patterns": PATTERNS,
        "tints": TINTS,
    }


@dataclass(frozen=True)
class _Block:
    """Consecutive images of a split: features and boxes of B x R regions, and the lines of each text file."""

    features: np.ndarray
    boxes: np.ndarray
    lines: dict[str, list[str]]


def _write_split(
    folder: Path, split: str, options: ScenesOptions, processes: int, progress: ShowProgress
) -> None:
    """Write every file of one split, block by block, so that memory does not grow with its size."""
    count, done = getattr(options, split), 0
    with ExitStack() as stack:
        features = stack.enter_context(open(folder / f"{split}_ims.npy", "wb"))
        boxes = stack.enter_context(open(folder / f"{split}_boxes.npy", "wb"))
        _write_header(features, np.float16, (count, NUM_REGIONS, FEATURE_DIM))
        _write_header(boxes, np.float32, (count, NUM_REGIONS, 4))
        texts = {
            name: stack.enter_context(open(folder / f"{split}_{name}", "w", encoding="utf-8"))
            for name in _TEXTS
        }
        make_block = partial(_make_block, folder / "images", split, options)
        step = max(1, _BLOCK_PIXELS // options.image_size**2)
        blocks_of_indices = [range(start, min(start + step, count)) for start in range(0, count, step)]
        if processes > 1:
            pool = ProcessPoolExecutor(processes, initializer=_leave_signals_to_the_parent)
            # No worker is killed: one that holds a lock of the queue would leave the others waiting forever.
            stack.callback(pool.shutdown, cancel_futures=True)
            blocks = pool.map(make_block, blocks_of_indices)
        else:
            blocks = map(make_block, blocks_of_indices)
        for block in blocks:
            features.write(block.features.tobytes())
            boxes.write(block.boxes.tobytes())
            for name, lines in block.lines.items():
                texts[name].writelines(f"{line}\n" for line in lines)
            done += len(block.features)
            progress(f"making {split}", done, count)


def _leave_signals_to_the_parent() -> None:
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, SIG_IGN)


def _write_header(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _make_block(images: Path, split: str, options: ScenesOptions, indices: range) -> _Block:
    """Generate the images numbered `indices`, and write their pictures."""
    pictures, boxes = [], []
    lines: dict[str, list[str]] = {name: [] for name in _TEXTS}
    for index in indices:
        scene = sample_scene(split, index, options.seed)
        image_id = f"{split}_{index:06d}"
        # One random generator for each task, so that a change in one task does not change the others.
        drawing, detecting, writing, swapping = (
            Random(f"{task} {options.seed} {image_id}") for task in ("draw", "detect", "write", "swap")
        )
        picture = draw_scene(scene, options.image_size, drawing)
        picture.save(images / f"{image_id}.png")
        regions = detect_regions(scene, options.image_size, detecting)
        pictures.append(np.asarray(picture))
        boxes.append([region.box for region in regions])
        lines["ids.txt"].append(image_id)
        lines["class.txt"].append(scene.label)
        lines["caps.txt"] += captions_of(scene, writing)
        lines["tags.txt"].append(_tags_line(regions))
        lines["scenes.jsonl"].append(_scene_line(scene, image_id, options.image_size))
        lines["swapped.jsonl"] += [
            json.dumps(asdict(pair)) for pair in swapped_pairs(scene, image_id, swapping)
        ]
    box_array = np.array(boxes, np.float32)  # [B,R,4]
    features = region_features(np.stack(pictures), box_array).astype(np.float16)
    return _Block(features, box_array, lines)


def _tags_line(regions: list[Region]) -> str:
    return json.dumps(
        {"tags": [region.tag for region in regions], "confidences": [region.confidence for region in regions]}
    )


def _scene_line(scene: Scene, image_id: str, image_size: int) -> str:
    """Return what was drawn as JSON, with tight boxes in pixels; captions can be checked against it."""
    objects = [
        {
            "colour": item.colour,
            "shape": item.shape,
            "size": item.size,
            "box": [round(value, 2) for value in object_box(item, image_size)],
        }
        for item in scene.objects
    ]
    family = int(image_id.rpartition("_")[2]) // FAMILY
    return json.dumps(
        {"id": image_id, "family": family, "pattern": scene.pattern, "tint": scene.tint, "objects": objects}
    )
