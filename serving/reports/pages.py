"""Pages that carry their own pictures: one for a search, one for the report of a run."""

import contextlib
import io
import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from config.errors import UserError
from serving.reports.pictures import PictureFolder
from serving.search.searcher import Hit

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
)


def write_page(path: Path, template: str, values: dict) -> Path:
    """Render a template with `values` into an HTML file and return its path."""
    return write_whole(path, TEMPLATES.get_template(template).render(values).encode())


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place and move it there, with the folders that it needs; return its path.

    Raises UserError where the disk refuses; what was there before is then intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place with --out") from error
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
    """Write `hits.png` and `hits.html` for one query; `shown` is the id of the query picture."""
    values = {
        "title": title,
        "note": note,
        "shown": shown,
        "images": images,
        "captions": captions,
        "pictures": pictures,
    }
    page = write_page(folder / "hits.html", "search.html", values)
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    return write_whole(folder / "hits.png", picture.getvalue()), page
