"""Pictures that tests draw: a field of four colours, so that any turn or flip of it shows."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CORNERS = {"upper left": (230, 20, 20), "upper right": (20, 200, 20), "lower left": (20, 20, 230)}
CORNERS["lower right"] = (240, 240, 240)


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Return red, green (above), blue and white (below)."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = CORNERS["upper left"]
    pixels[: height // 2, width // 2 :] = CORNERS["upper right"]
    pixels[height // 2 :, : width // 2] = CORNERS["lower left"]
    pixels[height // 2 :, width // 2 :] = CORNERS["lower right"]
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return a picture as a file of a format."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return soft coloured blobs: what JPEG and resizing change little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(folder: Path, pictures: dict[str, bytes]) -> Path:
    """Write files by their names, and return the folder."""
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, pictures: dict[str, bytes]) -> Path:
    """Write files by their names into a zip file, and return it."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in pictures.items():
            file.writestr(name, data)
    return path
