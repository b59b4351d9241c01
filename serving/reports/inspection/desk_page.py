"""The desk: a page on which a person judges doubted pairs with two keys, without a server.

The page loads nothing, and its policy forbids whatever is not in it: script and style are named by their
SHA-256. Judgements stay in the page (and in the browser's storage, where it may keep any) until they are
saved as a file, which tools/judge_pairs.py reads.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from config.files.whole import write_whole
from engine.inspection.cases import Inspected
from engine.inspection.judgements import DoubtedPair
from engine.inspection.kept_lists import KeptLists
from serving.look import LOOK
from serving.reports.pages import OTHER_PLACE, TEMPLATES
from serving.reports.pictures import PictureFolder

PICTURE = 360  # pixels a side
_FOLDER = Path(__file__).resolve().parents[1] / "templates"


def write_desk(
    path: Path,
    result: Inspected,
    pairs: Sequence[DoubtedPair],
    in_all: int,
    pictures: PictureFolder,
    judgements: str = "judgements.json",
) -> Path:
    """Write the desk of `pairs`, of `in_all` doubted ones; `judgements` is the name of the file it saves."""
    lists = result.lists
    script, own = ((_FOLDER / f"desk.{end}").read_text(encoding="utf-8") for end in ("js", "css"))
    style = LOOK + own
    cards = [_card(lists, pair, pictures) for pair in pairs]
    asked = [
        {"image": card["image"], "caption": card["caption"], "sentence": card["sentence"]} for card in cards
    ]
    data = json.dumps({"file": judgements, "pairs": asked}, ensure_ascii=False)
    values = {
        "title": f"Pairs that {result.name} believes",
        "protocol": result.stored.content["protocol"],
        "folder": str(result.stored.folder),
        "cards": cards,
        "in_all": in_all,
        "script": script,
        "style": style,
        "data": data.replace("<", "\\u003c"),  # so that no sentence ends the script element
        "policy": f"default-src 'none'; img-src data:; script-src {_named(script)}; "
        f"style-src {_named(style)}; base-uri 'none'; form-action 'none'",
    }
    text = TEMPLATES.get_template("desk.html").render(values)
    write_whole(path, text.encode("utf-8", "replace"), OTHER_PLACE)
    return path


def _named(source: str) -> str:
    """Return the name by which a policy admits an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _card(lists: KeptLists, pair: DoubtedPair, pictures: PictureFolder) -> dict:
    """Return what a card shows: the picture, the sentence, its places, and what the file calls right."""
    image_id = lists.image_ids[pair.image]
    own, _ = lists.right("i2t", pair.image)
    places = [
        f"place {place} of {kind}"
        for kind, place in (("the picture's list", pair.i2t_place), ("the sentence's list", pair.t2i_place))
        if place is not None
    ]
    return {
        "image": image_id,
        "caption": lists.caption_ids[pair.caption],
        "sentence": lists.captions[pair.caption],
        "uri": pictures.data_uri(image_id, PICTURE),
        "places": ", ".join(places),
        "score": pair.score,
        "margin": pair.margin,
        "right": list(dict.fromkeys(lists.captions[caption] for caption in own.tolist())),
    }
