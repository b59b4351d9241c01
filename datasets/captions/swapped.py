"""Swapped captions: a true sentence about an image, and a false one of the same words."""

import json
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError
from datasets.text_files import numbered_lines, read_text


@dataclass(frozen=True)
class SwappedPair:
    """A true sentence about a picture and a false one of exactly the same words.

    `kind` tells what is exchanged: the "colours" of the two objects, or their "sides".
    """

    image_id: str
    kind: str
    caption: str
    swapped: str


def load_swapped(folder: Path, split: str = "test") -> list[SwappedPair]:
    """Read the swapped captions of a Scenes folder.

    Raises `UserError` if there are none, or a line is malformed.
    """
    path = Path(folder) / f"{split}_swapped.jsonl"
    if not path.is_file():
        raise UserError(f"expected swapped captions in {path}, got none: make them with tools/make_scenes.py")
    pairs = []
    for number, line in numbered_lines(read_text(path)):
        try:
            pair = SwappedPair(**json.loads(line))
            if not all(isinstance(value, str) for value in vars(pair).values()):
                raise TypeError("values that are no texts")
            pairs.append(pair)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"expected image_id, kind, caption and swapped, got {line[:30]!r} ({path}, line {number})"
            ) from error
    return pairs


def swapped_pairs(folder: str | Path, split: str) -> list[SwappedPair]:
    """Return the swapped captions of a split; [] if the data set has no file of them."""
    return load_swapped(Path(folder), split) if (Path(folder) / f"{split}_swapped.jsonl").is_file() else []
