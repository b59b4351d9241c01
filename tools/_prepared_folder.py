"""The folder that tools/prepare_data.py writes: its files, and what an earlier preparation left in them."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from _command import folder_name

from config.default import KEYS
from config.errors import UserError, cut
from config.files.whole import write_whole
from config.load import config_as_dict, load_config
from config.task_files import to_yaml
from datasets.preparation.checks import SPLITS, Captioned
from datasets.preparation.state import STATE

FEATURES, CAPTIONS, VOCABULARY, TASK = "features.h5", "captions_by_split.csv", "vocabulary.json", "task.yaml"
LOOKED = "photos.json"
_RECIPE = Path(__file__).resolve().parent.parent / "configs" / "own_photos.yaml"
_RARE = 1000  # training captions from which a word has to occur twice to enter the vocabulary
_LARGEST_BATCH = 128


@dataclass(frozen=True)
class Earlier:
    """What was prepared: the folder `images`, the fingerprints of its photos, their splits, the network."""

    images: str
    network: dict
    photos: dict[str, list[int]]
    splits: dict[str, str]


def open_folder(folder: Path, images: Path, network: dict, add: bool, overwrite: bool) -> Earlier | None:
    """Return what `folder` holds if photos are to be added to it, None for a new one.

    Raises UserError for a folder with files that would be replaced unasked, and for one of other photos or
    another network.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: a file, expected a folder to write: give another --out")
    if add:
        earlier = _read_state(folder / STATE)
        if _essence(network) != _essence(earlier.network):
            own = f"--backbone {cut(earlier.network.get('path'), 80)}"
            if network.get("precision") != earlier.network.get("precision"):
                own += f" --precision {earlier.network.get('precision', 'float32')}"
            raise UserError(
                f"{folder}: prepared with another --backbone or --precision: give {own}, or --overwrite to "
                "begin anew"
            )
        if earlier.images != str(images.resolve()):
            raise UserError(
                f"{folder}: prepared from {cut(earlier.images, 80)}, got --images {images}: put the new "
                "photos into that folder"
            )
        if not (folder / FEATURES).is_file():
            raise UserError(
                f"{folder / FEATURES}: no such file, but --add adds to it: put it back, or --overwrite to "
                "begin anew"
            )
        return earlier
    stopped = (folder / f"{FEATURES}.extraction").is_dir()
    for name in (STATE, FEATURES, CAPTIONS, VOCABULARY, TASK):
        if (folder / name).exists() and not overwrite and (name == STATE or not stopped):
            raise UserError(
                f"{folder / name}: already there: --add to take new photos, --overwrite to begin anew, or "
                "another --out"
            )
    return None


def _essence(network: dict) -> dict:
    """Return what features depend on: not where the network's files are, but what they hold."""
    kept = {key: value for key, value in network.items() if key not in ("path", "weights", "model")}
    return json.loads(json.dumps(kept))


def _read_state(path: Path) -> Earlier:
    try:
        earlier = Earlier(**json.loads(path.read_text(encoding="utf-8")))
        if not _is_whole(earlier):
            raise ValueError("of another form")
        return earlier
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}: --add expects a folder that was prepared before"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not what prepare_data.py wrote: begin anew with --overwrite") from error


def _is_whole(earlier: Earlier) -> bool:
    """Return whether what was read has the types of what was written."""
    parts = earlier.network, earlier.photos, earlier.splits
    return (
        isinstance(earlier.images, str)
        and all(isinstance(part, dict) for part in parts)
        and all(
            isinstance(mark, list) and all(type(number) is int for number in mark)
            for mark in earlier.photos.values()
        )
        and all(split in SPLITS for split in earlier.splits.values())
    )


def write_state(folder: Path, state: Earlier) -> None:
    """Write what is prepared; this is the last file, so that a folder with it is complete."""
    write_whole(folder / STATE, json.dumps(vars(state), indent=0) + "\n")


def write_task(
    folder: Path, images: Path, captioned: Captioned, split: dict[str, str], dim: int
) -> list[str]:
    """Write captions, vocabulary and task file for features of width `dim`; return lines about them."""
    from datasets.build.words import build_words

    rows = [(name, caption, split[name]) for name, own in captioned.captions.items() for caption in own]
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([("image", "caption", "split"), *rows])
    training = [caption for _, caption, own in rows if own == "train"]
    overrides = [
        f"DATASET.NAME={folder.name}",
        f"DATASET.DATA_DIR={folder.resolve()}",
        f"DATASET.IMAGE_DIR={images.resolve()}",
        f"INPUT.IMG_FEATURE_DIM={dim}",
        f"INPUT.VOCAB_THRESHOLD={1 + (len(training) >= _RARE)}",
        f"OPTIMIZATION.BATCH_SIZE={max(2, min(_LARGEST_BATCH, len(training) // 4))}",
        f"OUTPUT.SAVE_NAME={folder_name(folder.name, 'photos')}",
    ]
    source = f"{folder / CAPTIONS}, train"
    words = build_words(load_config(_RECIPE, overrides), lambda: training, source, print)
    overrides += [f"INPUT.TOKENIZER={words.tokenizer}", f"INPUT.VOCAB_FILE={folder.resolve() / VOCABULARY}"]
    values = config_as_dict(load_config(_RECIPE, overrides))
    changed = {
        section: own
        for section, keys in values.items()
        if (own := {name: value for name, value in keys.items() if value != KEYS[section][name].default})
    }
    head = (
        "# VSE++ on these photos and captions; tools/prepare_data.py wrote it from configs/own_photos.yaml.\n"
    )
    write_whole(folder / CAPTIONS, table.getvalue())
    words.save(folder / VOCABULARY)
    write_whole(folder / TASK, head + to_yaml(changed))
    counts = {name: sum(own == name for own in split.values()) for name in SPLITS}
    return [
        f"split: {', '.join(f'{count:,} {name}' for name, count in counts.items())} photos",
        f"vocabulary: {len(words):,} words of {len(training):,} training captions ({words.tokenizer})",
    ]
