"""Pictures of every kind come out upright in RGB, and broken ones are told apart and named."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from datasets.pictures import picture
from datasets.pictures.picture import CropBox, Picture, UnreadableError, Unreadables
from tests.picture_files import CORNERS, encoded, noisy, quarters

BILINEAR = Image.Resampling.BILINEAR


def whole(data: bytes, flip: bool = False) -> np.ndarray:
    picture = Picture(data)
    view = CropBox((0, 0, *picture.size), picture.size, flip)
    return picture.views([view], BILINEAR)[0]


def corners(pixels: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Return the colour in the middle of each quarter."""
    height, width, _ = pixels.shape
    rows = {"upper": height // 4, "lower": 3 * height // 4}
    columns = {"left": width // 4, "right": 3 * width // 4}
    return {
        f"{row} {column}": tuple(pixels[y, x].tolist())
        for row, y in rows.items()
        for column, x in columns.items()
    }


def assert_quarters(pixels: np.ndarray, tolerance: int) -> None:
    for corner, colour in corners(pixels).items():
        assert np.abs(np.subtract(colour, CORNERS[corner])).max() <= tolerance, (corner, colour)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_camera_held_any_way_gives_an_upright_picture(orientation, kind):
    # how the sensor saw what is upright, so that the orientation says how to turn it back
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    seen = quarters()
    if orientation in turns:
        seen = seen.transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(seen, kind, exif=exif)
    assert Picture(data).size == (64, 48)
    assert_quarters(whole(data), tolerance=12)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_shrunk_jpeg_is_turned_as_well(orientation):
    seen = quarters(640, 480)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(seen if orientation == 1 else seen.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    picture = Picture(data)
    (pixels,) = picture.views([CropBox((0, 0, 640, 480), (64, 48))], BILINEAR)
    assert_quarters(pixels, tolerance=12)


def test_modes_become_rgb():
    rgb = quarters()
    assert_quarters(whole(encoded(rgb)), tolerance=0)
    assert_quarters(whole(encoded(rgb.quantize(16))), tolerance=8)  # a palette
    assert_quarters(whole(encoded(rgb.convert("CMYK"), "TIFF")), tolerance=2)
    assert_quarters(whole(encoded(rgb.convert("CMYK"), "JPEG", quality=95)), tolerance=12)
    grey = whole(encoded(rgb.convert("L")))
    assert (grey[..., 0] == grey[..., 2]).all() and corners(grey)["lower right"] == (240, 240, 240)
    bilevel = whole(encoded(rgb.convert("L").point(lambda value: 255 * (value > 200)).convert("1")))
    assert corners(bilevel)["lower right"] == (255, 255, 255) and corners(bilevel)["upper left"] == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(kind):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = whole(encoded(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(pixels[..., 1].ravel(), np.arange(256))


def test_32_bits_are_refused_as_their_white_is_unknown():
    for values in (np.full((4, 4), 70_000, dtype=np.int32), np.ones((4, 4), dtype=np.float32)):
        with pytest.raises(UnreadableError, match="expected 8 or 16"):
            whole(encoded(Image.fromarray(values), "TIFF"))


def test_transparent_parts_lie_on_white():
    rgba = quarters().convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[0], [255]], 24, axis=0).astype(np.uint8).repeat(64, axis=1)))
    for data in (encoded(rgba), encoded(rgba, "WEBP", lossless=True)):
        found = corners(whole(data))
        assert found["upper left"] == (255, 255, 255) and found["lower left"] == CORNERS["lower left"]
    palette = quarters().quantize(16)
    red = palette.getpixel((0, 0))
    found = corners(whole(encoded(palette, transparency=red)))
    assert found["upper left"] == (255, 255, 255) and found["upper right"] != (255, 255, 255)


def test_a_view_is_the_part_resized_and_flipped():
    data = encoded(quarters())
    views = [CropBox((32, 0, 64, 24), (8, 8)), CropBox((0, 0, 64, 48), (64, 48), flip=True)]
    part, mirrored = Picture(data).views(views, BILINEAR)
    # at the edge of the box the filter may reach beyond it, as when the whole is resized and then cut
    np.testing.assert_array_equal(part[:7, 1:], np.broadcast_to(CORNERS["upper right"], (7, 7, 3)))
    np.testing.assert_array_equal(mirrored, np.asarray(quarters())[:, ::-1])


@pytest.mark.parametrize("shrink", [1, 4])
def test_a_box_over_the_edge_by_rounding_ends_at_the_edge(shrink):
    picture = Picture(encoded(quarters(257, 191), "JPEG"))
    picture.decode(shrink)
    over = CropBox((128.5, 95.5, float(np.nextafter(np.float32(257), 300)), 191 * (1 + 1e-7)), (8, 8))
    (pixels,) = picture.views([over], BILINEAR)
    assert np.abs(pixels[4:, 4:].astype(int) - CORNERS["lower right"]).max() < 12


def test_a_jpeg_decoded_small_looks_as_one_decoded_whole():
    data = encoded(noisy(1200, 900), "JPEG", quality=95)
    picture = Picture(data)
    (quick,) = picture.views([CropBox((0, 0, 1200, 900), (120, 90))], BILINEAR)
    assert picture._image.size == (150, 113), "an eighth"
    plain = np.asarray(Image.open(io.BytesIO(data)).resize((120, 90), BILINEAR)).astype(int)
    assert np.abs(plain - quick).mean() < 2


def test_the_pictures_of_telephones_are_jpegs_too():
    data = encoded(noisy(1200, 900), "MPO", save_all=True, append_images=[noisy(300, 200)])
    picture = Picture(data)
    assert picture._image.format == "MPO"
    (pixels,) = picture.views([CropBox((0, 0, 1200, 900), (120, 90))], BILINEAR)
    assert picture._image.size == (150, 113)
    assert np.abs(np.asarray(noisy(120, 90)).astype(int) - pixels).mean() < 6


BROKEN = {
    "empty": (b"", "zero bytes"),
    "text": (b"<html>404 not found</html>", "not a picture"),
    "half a jpeg": (encoded(noisy(300, 200), "JPEG")[:2000], "truncated"),
    "half a png": (encoded(noisy(300, 200))[:2000], "truncated"),
    "a few bytes of a jpeg": (encoded(noisy(300, 200), "JPEG")[:10], "Truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_why(name):
    data, why = BROKEN[name]
    with pytest.raises(UnreadableError, match=why) as caught:
        whole(data)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb, small = encoded(Image.new("1", (20_000, 20_000))), encoded(quarters())
    assert len(bomb) < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableError, match="20000|pixels"):
        Picture(bomb)
    monkeypatch.setattr(picture, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableError, match="64 x 48 pixels, more than 100"):
        Picture(small)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_escapes_as_another_error():
    random = np.random.default_rng(0)
    kinds = {"JPEG": {}, "PNG": {}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "BMP": {}}
    seen = 0
    for kind, options in kinds.items():
        good = np.frombuffer(encoded(noisy(40, 30), kind, **options), dtype=np.uint8)
        for _ in range(40):
            bad = good[: random.integers(1, len(good) + 1)].copy()
            places = random.integers(len(bad), size=3)
            bad[places] = random.integers(0, 256, 3)
            try:
                assert whole(bad.tobytes()).dtype == np.uint8
            except UnreadableError:
                seen += 1
    assert seen > 60


def test_unreadable_pictures_are_counted_or_refused():
    skipped = Unreadables(refuse=False)
    assert skipped.describe() == []
    skipped.add("b.jpg", UnreadableError("zero bytes"))
    skipped.add("a.jpg", UnreadableError("image file is truncated"))
    assert skipped.describe() == [
        "a.jpg: skipped, unreadable picture: image file is truncated",
        "b.jpg: skipped, unreadable picture: zero bytes",
        "unreadable pictures skipped: 2",
    ]
    with pytest.raises(UserError, match=r"^b.jpg: unreadable picture: zero bytes: mend or remove it"):
        Unreadables(refuse=True).add("b.jpg", UnreadableError("zero bytes"))


def test_a_file_is_opened_upright_and_whole_or_said_to_be_unreadable(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 30), (10, 20, 30)).save(tmp_path / "turned.png", exif=exif)
    opened = picture.open_upright(tmp_path / "turned.png")
    assert (opened.size, opened.mode, opened.getpixel((0, 0))) == ((30, 40), "RGB", (10, 20, 30))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name, problem in (("broken.png", "not a picture of a known format"), ("none.png", "No such file")):
        with pytest.raises(UnreadableError, match=problem):
            picture.open_upright(tmp_path / name)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
@pytest.mark.parametrize("where", ["before the pixels", "after them"])
def test_a_png_with_megabytes_of_text_is_a_picture(kind, where):
    import zlib

    long = b"x" * 2_000_000
    content = {
        "tEXt": b"note\0" + long,
        "zTXt": b"note\0\0" + zlib.compress(long),
        "iTXt": b"note\0\0\0\0\0" + long,
    }[kind]
    chunk = len(content).to_bytes(4, "big") + kind.encode() + content
    chunk += zlib.crc32(kind.encode() + content).to_bytes(4, "big")
    plain = encoded(quarters())
    at = 33 if where == "before the pixels" else len(plain) - 12
    found = Picture(plain[:at] + chunk + plain[at:])
    assert found.size == Picture(plain).size
    np.testing.assert_array_equal(found.decode(1), Picture(plain).decode(1))


def test_what_pillow_raises_is_not_logged_besides(caplog):
    data = bytearray(encoded(noisy(8, 8), "TIFF"))
    samples = struct.pack("<HHI", 277, 3, 1)  # samples per pixel
    assert data.count(samples) == 1
    at = data.index(samples) + len(samples)
    data[at : at + 2] = (2048).to_bytes(2, "little")
    with pytest.raises(UnreadableError):
        Picture(bytes(data)).decode(1.0)
    assert caplog.records == []
