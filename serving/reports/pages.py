"""HTML pages with embedded pictures, and the page of a search."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from config.files.whole import write_whole, writing
from serving.look import LOOK
from serving.reports.pictures import PictureFolder
from serving.search.searcher import Hit

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
)
TEMPLATES.globals["look"] = LOOK
OTHER_PLACE = "choose another place with --out"


def write_page(path: Path, template: str, values: dict) -> Path:
    """Render a template with `values` into the HTML file `path` and return that path.

    Raises UserError if the file cannot be written.
    """
    write_whole(path, TEMPLATES.get_template(template).render(values), OTHER_PLACE)
    return path


def write_picture(path: Path, picture: Image.Image, optimize: bool = False) -> Path:
    """Write a picture as the PNG file `path` and return that path.

    Raises UserError if the file cannot be written.
    """
    with writing(path, OTHER_PLACE) as draft:
        picture.save(draft, "PNG", optimize=optimize)
    return path


def write_search_page(
    folder: Path,
    title: str,
    note: str,
    shown: str | None,
    images: list[Hit],
    captions: list[Hit],
    pictures: PictureFolder,
    sheet: Image.Image,
) -> tuple[Path, Path]:
    """Write `hits.png` and `hits.html` for one query into `folder` and return both paths.

    `shown` is the id or the path of the picture that was the query, None for a sentence. `sheet` is the
    contact sheet.
    """
    values = {
        "title": title,
        "note": note,
        "shown": shown,
        "images": images,
        "captions": captions,
        "pictures": pictures,
    }
    page = write_page(folder / "hits.html", "search.html", values)
    return write_picture(folder / "hits.png", sheet), page
