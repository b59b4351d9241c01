"""What the folder of tools/prepare_data.py tells of the photos from which it was made."""

import json
from pathlib import Path

STATE = "prepared.json"  # as config/load.py knows it


def pictures_of(folder: Path) -> Path | None:
    """Return the folder (or zip file) of the photos that were prepared into `folder`, an absolute path.

    None where that is not known, or they are no longer there.
    """
    try:
        images = json.loads((folder / STATE).read_text(encoding="utf-8"))["images"]
        return Path(images) if Path(images).is_absolute() and Path(images).exists() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
