"""COCO's names and the positives of CxC and ECCV Caption, from the files that their authors publish.

The folder holds `coco_test_ids.npy` and the maps of the package eccv-caption (its folder `data`), and for
CxC's picture-to-picture and text-to-text `sis_test.csv` and `sts_test.csv`, plain or gzipped, of
Crisscrossed-Captions.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import mistaken_text, refusal
from datasets.array_files import read_npy
from datasets.relevance import Relevance
from engine.protocols.scored import Scored

WHERE = "expected a file of eccv-caption's data (docs/protocols.md)"


class CocoNames:
    """The places of COCO's pictures and captions in `scored`.

    The captions are found by `caption_ids`, or else by their order, which must be that of coco_test_ids.npy.
    Raises UserError for names that are not those of COCO's 5K.
    """

    def __init__(self, scored: Scored, folder: Path) -> None:
        self.folder, self.scored = folder, scored
        self.absent: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.image_of = scored.image_of_number
        owners = {
            int(caption): images[0]
            for caption, images in self.map("original_caption_to_image").items()
            if images
        }
        ids = self._caption_numbers()
        if len(ids) != scored.shape[1]:
            raise UserError(
                f"{scored.path}: {scored.shape[1]} captions, expected the {len(ids)} of "
                f"{folder / 'coco_test_ids.npy'}: five a picture, or give their ids as caption_ids"
            )
        numbers = {place: number for number, place in self.image_of.items()}
        for place, caption in enumerate(ids):
            found = numbers[int(scored.caption_image[place])]
            if owners.get(caption) != found:
                raise UserError(
                    f"{scored.path}: caption {place + 1} belongs to picture {found}, COCO's {caption} "
                    f"to {owners.get(caption, 'none')}: scores of another split, or captions in another order"
                )
        self.caption_of = {caption: place for place, caption in enumerate(ids)}

    def _caption_numbers(self) -> list[int]:
        if self.scored.caption_ids is None:
            return _load_numbers(self.folder / "coco_test_ids.npy")
        try:
            return [int(name.rpartition(":")[2]) for name in self.scored.caption_ids]
        except ValueError as error:
            raise UserError(f"{self.scored.path}: caption_ids: expected COCO's numbers: {error}") from error

    def map(self, name: str) -> dict[str, list[int]]:
        """Return a map of the folder; raise UserError for a file that is missing or no such map."""
        path = self.folder / f"{name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): {WHERE}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(refusal(path, f"not JSON: {WHERE}")) from error
        numbers = isinstance(content, dict) and all(
            key.isdecimal()
            and len(key) < 20
            and isinstance(each, list)
            and all(type(one) is int for one in each)
            for key, each in content.items()
        )
        if not numbers:
            raise UserError(f"{path}: expected an object, id -> list of ids: {WHERE}")
        return content

    def positives(self, name: str) -> tuple[Relevance, Relevance]:
        """Return the right captions of pictures, and the right pictures of captions (captions as rows).

        `name` is cxc or eccv. The two maps are not one turned round: each lists its own queries. Then
        `absent[name]` holds how many items of each query are not among the captions or pictures.
        """
        images, captions = self.scored.shape
        i2t = self._pairs(f"{name}_image_to_caption", self.image_of, self.caption_of)
        t2i = self._pairs(f"{name}_caption_to_image", self.caption_of, self.image_of)
        self.absent[name] = i2t[2], t2i[2]
        rule = {"cxc": "CxC, rated 3 or more", "eccv": "ECCV Caption"}[name]
        return (
            Relevance.of((images, captions), *i2t[:2], rule=rule),
            Relevance.of((captions, images), *t2i[:2], rule=rule),
        )

    def _pairs(
        self, name: str, rows: dict[int, int], columns: dict[int, int]
    ) -> tuple[list[int], list[int], np.ndarray]:
        """Return rows and columns of the pairs of a map, and how many items of each row are not there.

        ECCV Caption has two positives, a sixth caption each, that are not among COCO's 25,000.
        """
        first, second, absent = [], [], np.zeros(len(rows), np.int64)
        for query, items in self.map(name).items():
            if int(query) not in rows:
                raise UserError(
                    f"{self.folder / name}.json: {query} is not in {self.scored.path}, expected COCO 5K"
                )
            row = rows[int(query)]
            present = [columns[item] for item in items if item in columns]
            first += [row] * len(present)
            second += present
            absent[row] = len(items) - len(present)
        if absent.sum() > 0.01 * len(first):
            raise UserError(
                f"{self.folder / name}.json: {absent.sum()} of its items are not in "
                f"{self.scored.path}, expected COCO 5K"
            )
        return first, second, absent

    def rated(self, name: str, least: float, both_ways: bool = True) -> Relevance:
        """Return the pairs of CxC's `name`, sis (pictures) or sts (captions), rated at least `least`.

        A pair counts `both_ways`, whichever of the two its line names first, or for its first alone.
        """
        of_pictures = name == "sis"
        place_of = self.image_of if of_pictures else self.caption_of
        size = self.scored.shape[0 if of_pictures else 1]
        first, second, grades = [], [], []
        for where, *pair, score in _ratings(self.folder, name):
            numbers = [_number(where, each) for each in pair]
            for number in numbers:
                if number not in place_of:
                    raise UserError(
                        f"{where}: {number} is not in {self.scored.path}: expected all of COCO 5K"
                    )
            if score >= least:
                places = [place_of[number] for number in numbers]
                for one, other in (places, places[::-1]) if both_ways else (places,):
                    first.append(one)
                    second.append(other)
                    grades.append(score)
        return Relevance.of(
            (size, size), first, second, grades, f"CxC {name.upper()}, rated {least:g} or more"
        )


def _number(where: str, name: str) -> int:
    """Return the number that a name of Crisscrossed-Captions ends with, such as sentid:1 or COCO_1.jpg."""
    text = name.rpartition(":")[2].rpartition("_")[2].partition(".")[0]
    if not text.isdecimal() or len(text) > 18:
        raise UserError(f"{where}: expected a name of COCO, got {cut(name)!r}: {WHERE}")
    return int(text)


def _ratings(folder: Path, name: str) -> Iterator[tuple[str, str, str, float]]:
    paths = [folder / f"{name}_test.csv", folder / f"{name}_test.csv.gz"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: no such file, expected the ratings of Crisscrossed-Captions: {WHERE}")
    data = b""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text))
        if header[2] != "agg_score" or not rows:
            raise ValueError(f"{cut(','.join(header))} and {len(rows)} lines")
        for number, row in enumerate(rows, 2):
            yield f"{path} line {number}", row[0], row[1], float(row[2])
    except (OSError, EOFError, ValueError, IndexError, csv.Error, zlib.error) as error:
        problem = mistaken_text(data) or f"not ratings of Crisscrossed-Captions ({cut(error, 80)}): {WHERE}"
        raise UserError(f"{path}: {problem}") from error


def _load_numbers(path: Path) -> list[int]:
    try:
        numbers = read_npy(path)
    except UserError as error:
        raise UserError(f"{error}: {WHERE}") from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {numbers.dtype} {list(numbers.shape)}, expected the numbers of captions: {WHERE}"
        )
    return numbers.tolist()
