"""Pictures of any kind as upright RGB; unreadable ones are named, and skipped or refused."""

import io
import logging
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from config.errors import UserError

MAX_PIXELS = 100_000_000  # of width x height: what decodes to more than 300 MB is taken for a bomb
_GAP = 2.0  # times the final size: down to that, pictures are shrunk by integer factors, which are faster
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"  # the brands of its first box
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, OverflowError),
    *(NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
)  # what Pillow raises for damaged files, depending on their format

# Pillow warns of sizes that MAX_PIXELS admits, and of damage that it tolerates, from any thread.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs some of what it raises, too


class UnreadableError(Exception):
    """A picture that cannot be read; the message says why, without the picture's name."""


@dataclass(frozen=True)
class CropBox:
    """A part of a picture, and the size to which it is resized.

    `box` is left, upper, right, lower in pixels of the upright picture, fractions of pixels included. `size`
    is width and height of the result. `flip` mirrors the result left to right.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool = False


class Picture:
    """A picture whose header is read; its pixels are decoded when a view is asked for.

    `size` is width and height of the upright picture, in pixels. Raises `UnreadableError` for data that is no
    picture, is empty, or has more than `MAX_PIXELS` pixels.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise UnreadableError("zero bytes")
        try:
            try:
                self._image, orientation = _read_header(data)
            except ValueError:  # among others, for more than a megabyte of text
                if not data.startswith(_PNG):
                    raise
                self._image, orientation = _read_header(_without_text(data))
            width, height = self._image.size
        except Image.UnidentifiedImageError as error:
            if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
                raise UnreadableError("a HEIC, whatever its name: save it as JPEG") from error
            raise UnreadableError("not a picture of a known format") from error
        except _BROKEN as error:
            raise _unreadable(error) from error
        self._upright: Image.Image | None = None
        self._turned = orientation in range(2, 9)
        self.size = (height, width) if orientation in range(5, 9) else (width, height)

    @classmethod
    def of(cls, image: Image.Image) -> "Picture":
        """Return the picture of an image that Pillow opened or made; raise `UnreadableError` as usual."""
        picture = cls.__new__(cls)
        try:
            picture._image, picture._turned = image, False
            picture._upright = to_rgb(ImageOps.exif_transpose(image))
        except _BROKEN as error:
            raise _unreadable(error) from error
        picture.size = picture._upright.size
        return picture

    def views(self, views: list[CropBox], resample: Image.Resampling) -> list[np.ndarray]:
        """Return each view as uint8 [height,width,3] in RGB; equal boxes are resized once.

        Each channel is contiguous in memory, as networks want it. The picture is decoded as small as these
        views allow, unless `decode` was called before. Raises `UnreadableError`.
        """
        shrink = min(
            min((view.box[2] - view.box[0]) / view.size[0], (view.box[3] - view.box[1]) / view.size[1])
            for view in views
        )
        upright = self.decode(shrink)
        x_scale, y_scale = upright.width / self.size[0], upright.height / self.size[1]
        made: dict[tuple, Image.Image] = {}
        for view in views:
            if (view.box, view.size) not in made:
                left, upper, right, lower = view.box
                # rounding may cross the edge, and Pillow refuses such a box
                right, lower = min(right * x_scale, upright.width), min(lower * y_scale, upright.height)
                box = (left * x_scale, upper * y_scale, right, lower)
                made[view.box, view.size] = upright.resize(view.size, resample, box=box, reducing_gap=_GAP)
        return [_pixels(made[view.box, view.size], view.flip) for view in views]

    def decode(self, shrink: float) -> Image.Image:
        """Return the upright picture in RGB; it is decoded once, whole or shrunk by at most `shrink`.

        A JPEG can be decoded at a half, a quarter or an eighth of its size, in a fraction of the time. Raises
        `UnreadableError`.
        """
        if self._upright is None:
            self._upright = self._decode(shrink)
        return self._upright

    def _decode(self, shrink: float) -> Image.Image:
        image = self._image
        try:
            if shrink >= 2 and isinstance(image, JpegImageFile):
                width, height = image.size
                image.draft(None, (int(width / shrink), int(height / shrink)))
            image.load()
            if self._turned:
                image = ImageOps.exif_transpose(image)
            return to_rgb(image)
        except _BROKEN as error:
            raise _unreadable(error) from error


def _read_header(data: bytes) -> tuple[Image.Image, int]:
    """Return a picture that is not decoded yet, and its orientation, from 1 to 8."""
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels, more than {MAX_PIXELS:,} (a bomb?)")
    # Pillow turns TIFF upright by itself.
    return image, 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)


def _without_text(data: bytes) -> bytes:
    """Return a PNG without its chunks of text."""
    kept, start = [_PNG], len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def open_upright(path: Path) -> Image.Image:
    """Return the whole picture in a file, upright and in RGB; raise `UnreadableError` if that fails."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    return Picture(data).decode(shrink=1)


def _pixels(image: Image.Image, flip: bool) -> np.ndarray:
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    channels = np.frombuffer(b"".join(band.tobytes() for band in image.split()), dtype=np.uint8)
    return channels.reshape(3, image.height, image.width).transpose(1, 2, 0)  # [height,width,3]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture in RGB with 8 bits per channel.

    16 bits are scaled to 8, and transparent parts are put on white. Raises `UnreadableError` for 32 bits per
    channel, of which it is unknown what is white.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UnreadableError("grey of 32 bits a channel, expected 8 or 16: save it so")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableError("grey of 32-bit floats, expected 8 or 16 bits a channel: save it so")
    return image if image.mode == "RGB" else image.convert("RGB")


class Unreadables:
    """The pictures that could not be read, by name; threads may share it.

    `refuse` makes the first such picture an error.
    """

    def __init__(self, refuse: bool) -> None:
        self.refuse = refuse
        self.problems: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, name: str, error: UnreadableError, folder: Path = Path()) -> None:
        """Record a picture of a folder; raise `UserError` that names it if such pictures are refused."""
        if self.refuse:
            raise UserError(
                f"{folder / name}: unreadable picture: {error}: mend or remove it, or "
                "skip such pictures (--unreadable skip, INPUT.UNREADABLE=skip)"
            )
        with self._lock:
            self.problems[name] = str(error)

    def describe(self) -> list[str]:
        """Return the lines of `describe_unreadable`."""
        return describe_unreadable(self.problems)


def describe_unreadable(problems: dict[str, str]) -> list[str]:
    """Return one line per picture, sorted by name, and one with their number; [] if there is none."""
    lines = [f"{name}: skipped, unreadable picture: {problems[name]}" for name in sorted(problems)]
    return [*lines, f"unreadable pictures skipped: {len(lines)}"] if lines else []


def _unreadable(error: Exception) -> UnreadableError:
    return UnreadableError(" ".join(str(error).split()) or type(error).__name__)
