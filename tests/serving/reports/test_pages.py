"""Pages carry their pictures, show what was found, and let no caption write markup."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from serving.reports.pages import write_page, write_search_page
from serving.reports.pictures import (
    THUMBNAIL,
    ContactSheetTile,
    PictureFolder,
    contact_sheet,
    image_folder,
    image_uri,
)
from serving.search.searcher import Hit


def test_pictures_are_found_with_and_without_their_ending(pictures):
    assert pictures.find("image_1") == pictures.find("image_1.png")
    assert pictures.find("image_77") is None
    assert PictureFolder(None).find("image_1") is None


def test_the_picture_folder_is_inside_the_data_or_absolute(tmp_path):
    (tmp_path / "images").mkdir()
    assert image_folder(str(tmp_path), "images", "dev") == tmp_path / "images"
    assert image_folder("data/x", str(tmp_path), "dev") == tmp_path
    assert image_folder("data/x", "", "dev") is None
    assert image_folder(str(tmp_path), "{split}", "images") == tmp_path / "images"
    with pytest.raises(UserError, match="data/x/images is not a folder"):
        image_folder("data/x", "images", "dev")


def test_a_missing_or_broken_picture_is_a_card_with_its_id(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name in ("image_77", "broken"):
        assert pictures.thumbnail(name).size == (THUMBNAIL, THUMBNAIL)


def test_a_contact_sheet_shows_every_tile(pictures):
    sheet = contact_sheet(
        "a title",
        [ContactSheetTile(f"image_{n}", "0.5", right=n == 1) for n in range(6)],
        pictures,
        columns=3,
    )
    one_row = contact_sheet("a title", [ContactSheetTile("image_0", "0.5")] * 3, pictures, columns=3)
    assert sheet.height > one_row.height + THUMBNAIL
    assert sheet.width == one_row.width


def test_a_contact_sheet_shows_the_query_first_where_its_picture_is_found(pictures):
    tiles = [ContactSheetTile(f"image_{n}", "0.5") for n in range(1, 4)]
    without = contact_sheet("a title", tiles, pictures, columns=3)
    sheet = contact_sheet("a title", tiles, pictures, columns=3, query="image_5")
    assert sheet.height == without.height and sheet.width > without.width
    middle = 40 + THUMBNAIL // 2
    assert sheet.getpixel((12 + THUMBNAIL // 2, middle)) == (200, 20, 90), "the picture of image_5"
    shift = sheet.width - without.width
    hits = sheet.crop((shift + 12, 40, sheet.width, sheet.height))
    assert hits.tobytes() == without.crop((12, 40, without.width, without.height)).tobytes()
    assert contact_sheet("a title", tiles, pictures, columns=3, query="image_77").size == without.size


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_survives_its_way_into_a_page(kind):
    picture = Image.new("RGB", (5, 4), (10, 200, 90))
    head, _, content = image_uri(picture, kind).partition(",")
    back = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{kind};base64" and back.format == kind.upper() and back.size == (5, 4)
    assert np.abs(np.asarray(back, int) - np.asarray(picture, int)).max() <= (0 if kind == "png" else 3)


def test_a_search_page_carries_its_pictures_and_escapes_text(pictures, tmp_path):
    sheet = Image.new("RGB", (10, 10))
    hits = [Hit("image_0", 0.9), Hit("image_1", 0.8)]
    png, page = write_search_page(
        tmp_path / "found",
        "<script>alert(1)</script>",
        "the best of 6",
        None,
        hits,
        [Hit("a <b>", 0.5)],
        pictures,
        sheet,
    )
    text = page.read_text()
    assert png.is_file()
    assert "<script>" not in text and "&lt;script&gt;" in text and "a &lt;b&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 2 and "the best of 6" in text
    assert "own captions are green" not in text, "none of the captions is"


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "hits.html").write_text("old")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match="cannot write .*hits.html: No space left on device; .*--out"):
        write_page(tmp_path / "hits.html", "search.html", {"title": "new", "images": []})
    assert [path.name for path in tmp_path.iterdir()] == ["hits.html"]
    assert (tmp_path / "hits.html").read_text() == "old"
