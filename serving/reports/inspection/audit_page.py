"""The page of an audit: what splits share, with the pictures side by side, and a result without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.certificates.sides import describe
from engine.certificates.stored import title_of
from engine.inspection.audit import Audit, Recount
from serving.reports.pages import write_page
from serving.reports.pictures import PictureFolder
from serving.search.searcher import Hit

SHOWN = 12


@dataclass(frozen=True)
class Shown:
    """Two splits, or one with itself: the numbers of pairs, and the first pairs of pictures."""

    where: str
    equal: int
    alike: int
    pairs: list[tuple[Hit, Hit]]
    folders: tuple[PictureFolder, PictureFolder]


def write_audit(
    path: Path, found: Audit, counted: Sequence[Recount], pictures: Mapping[str, PictureFolder]
) -> Path:
    """Write the page; `pictures` holds the folder of each split. Raises UserError if it cannot be written."""
    nothing = PictureFolder(None)
    shown = []
    for each in found.pictures:
        names = found.by_name[each.first].image_ids, found.by_name[each.second].image_ids
        pairs = [*each.equal.tolist(), *each.alike.tolist()][:SHOWN]
        shown.append(
            Shown(
                _where(each.first, each.second),
                len(each.equal),
                len(each.alike),
                [(Hit(names[0][one], None), Hit(names[1][other], None)) for one, other in pairs],
                (pictures.get(each.first, nothing), pictures.get(each.second, nothing)),
            )
        )
    sentences = []
    for each in found.sentences:
        captions = found.by_name[each.second].captions
        examples = list(dict.fromkeys(captions[place] for place in [*each.equal, *each.alike]))[:5]
        sentences.append((_where(each.first, each.second), len(each.equal), len(each.alike), examples))
    names = [name for name in counted[0].metrics if not name.endswith(("medr", "meanr"))] if counted else []
    values = {
        "title": "What the splits share",
        "method": found.method,
        "splits": found.splits,
        "pictures": shown,
        "sentences": sentences,
        "names": [title_of(name) for name in names],
        "recounts": [
            (each.without, sum(each.left.values()), [describe(each.metrics[name]) for name in names])
            for each in counted
        ],
    }
    return write_page(path, "audit.html", values)


def _where(first: str, second: str) -> str:
    return f"within {first}" if first == second else f"{first} and {second}"
