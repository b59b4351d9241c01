"""Plausible-match R-precision (PMRP, Chun et al. 2021): items are right if their pictures hold like objects.

Three different numbers go by this name. A picture's code tells which object categories it holds, and two
pictures are t apart if t categories are in one of them alone.

- `pcme`: thresholds 0, 1 and 2; a query's own picture counts; mean over queries, then over thresholds.
- `eccv`: threshold 2, without the query's own picture, over whole rankings (the package eccv-caption).
- `cut`: as `eccv`, but lists end at 50 items, so that R is at most 50 (the table of ECCV Caption's paper).

A picture without objects is no query; its captions are none either, and stay in the gallery.
"""

import json
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.kinds import refusal
from engine.certificates.sides import Side, Sides
from engine.protocols.scored import Scored
from engine.ranking.precisions import r_precision_of_rows

OBJECTS = "COCO's instances JSON, or JSON from image ids to categories"
LISTS_END = 50
THRESHOLDS = {"pcme": (0, 1, 2), "eccv": (2,), "cut": (2,)}
_BLOCK = 128  # queries at a time


def pmrp_sides(
    scored: Scored, objects: Path | None, variant: str, tie_rule: str
) -> tuple[Sides, dict[str, object]]:
    """Return both directions with the precision `pmrp` of every query, and the choices made.

    `objects` is COCO's instances JSON, or JSON from image ids to lists of categories.
    """
    if objects is None:
        raise UserError(f"expected {OBJECTS}, got none")
    codes = read_codes(objects, scored)  # [I,C]
    sizes = codes.sum(axis=1)
    apart = sizes[:, None] + sizes - 2 * (codes @ codes.T)  # [I,I]
    apart[:, sizes == 0] = apart[sizes == 0] = np.inf
    if variant != "pcme":
        np.fill_diagonal(apart, np.inf)
    sides = {}
    for direction, owner, items in (
        ("i2t", np.arange(scored.shape[0]), scored.caption_image),
        ("t2i", scored.caption_image, np.arange(scored.shape[0])),
    ):
        found, right = np.zeros(len(owner)), np.zeros(len(owner), np.int64)
        for start in range(0, len(owner), _BLOCK):
            queries = np.arange(start, min(start + _BLOCK, len(owner)))
            rows, distance = scored.rows(direction, queries), apart[owner[queries]][:, items]
            of_thresholds = []
            for threshold in THRESHOLDS[variant]:
                relevant = distance <= threshold
                some = np.flatnonzero(relevant.any(axis=1))
                precision = np.zeros(len(queries))
                at_most = LISTS_END if variant == "cut" else None
                precision[some] = r_precision_of_rows(rows[some], relevant[some], tie_rule, at_most)
                of_thresholds.append(precision)
            found[queries], right[queries] = np.mean(of_thresholds, axis=0), relevant.sum(axis=1)
        asked = np.flatnonzero(right)
        if not len(asked):
            raise UserError(f"{objects}: no query of {scored.path} has a plausible match: check the file")
        nothing = np.zeros(len(asked), np.int64)
        sides[f"{direction}_"] = Side(
            nothing,
            nothing,
            asked,
            owner[asked],
            nothing,
            right[asked],
            np.full(len(asked), len(items)),
            recalls=(),
            precisions={"pmrp": found[asked]},
            median=False,
        )
    choices: dict[str, object] = {"variant": variant, "thresholds": list(THRESHOLDS[variant])}
    choices["own_picture"] = "counts" if variant == "pcme" else "left out"
    choices["lists"] = f"cut at {LISTS_END}" if variant == "cut" else "whole"
    return sides, choices


def read_codes(path: Path, scored: Scored) -> np.ndarray:
    """Return which categories each picture holds, float32 [I,C], 0 or 1.

    Raises UserError for a file that is neither of the two forms, and for one that knows no picture.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}), expected the pictures' objects"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(refusal(path, "not JSON, expected the pictures' objects")) from error
    try:
        if "annotations" in content:
            number = scored.image_of_number
            pairs = [
                (number[each["image_id"]], str(each["category_id"]))
                for each in content["annotations"]
                if each["image_id"] in number
            ]
        else:
            row_of = {name: row for row, name in enumerate(scored.image_ids)}
            pairs = [
                (row_of[name], str(each)) for name, held in content.items() if name in row_of for each in held
            ]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: expected COCO's instances (annotations with image_id and category_id) or image id -> "
            f"list of categories: {error}"
        ) from error
    if not pairs:
        raise UserError(f"{path}: holds objects of none of the pictures of {scored.path}: check the ids")
    column = {name: place for place, name in enumerate(sorted({name for _, name in pairs}))}
    codes = np.zeros((scored.shape[0], len(column)), np.float32)
    for row, name in pairs:
        codes[row, column[name]] = 1
    return codes
