"""The pages of the worst misses of a result, and of the queries on which two results disagree most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.certificates.sides import describe
from engine.certificates.stored import certified_of, title_of
from engine.inspection.cases import DIRECTIONS, Answer, Case, Inspected, Item, disagreements, misses
from engine.inspection.kept_lists import KeptLists
from serving.reports.pages import write_page
from serving.reports.pictures import PictureFolder
from serving.search.searcher import Hit

if TYPE_CHECKING:
    from serving.reports.explanation_page import ExplanationSection

Look = Callable[[int, int], "ExplanationSection | None"]  # of an image and a caption, places in the split
TITLES = {"t2i": "Sentences that look for pictures", "i2t": "Pictures that look for sentences"}


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer: the rank as text, the best right item, what beat it (or None), and the first hits."""

    model: str
    rank: str
    right: Hit
    beaten_by: Hit | None
    hits: list[Hit]


@dataclass(frozen=True)
class ShownCase:
    """A query, a `sentence` or the id of an `image`, with answers, and where each word looked."""

    sentence: str
    image: str
    answers: list[ShownAnswer]
    looks: list[tuple[str, "ExplanationSection"]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A part of a page: the heading, a note, and the cases of one direction, t2i or i2t."""

    direction: str
    heading: str
    note: str
    cases: list[ShownCase]


def write_misses(
    path: Path,
    result: Inspected,
    pictures: PictureFolder,
    count: int,
    look: Look | None = None,
    looks: int = 0,
) -> Path:
    """Write the page of the `count` worst misses of each direction; `look` explains the first `looks`."""
    sections = []
    for direction in DIRECTIONS:
        found = misses(result, direction, count)
        shown = [shown_case(result.lists, case) for case in found]
        for case, each in zip(found[:looks] if look else [], shown, strict=False):
            each.looks.extend(_looks(case, look))
        missed = int((result.ranks(direction) > 0).sum())
        note = f"{missed:,} queries miss at rank 1; the worst of different pictures, by rank."
        sections.append(Section(direction, TITLES[direction], note, shown))
    return _write(path, f"The worst misses of {result.name}", [result], sections, pictures)


def write_disagreements(
    path: Path, first: Inspected, second: Inspected, pictures: PictureFolder, count: int
) -> Path:
    """Write the page of the queries on which two results differ most, both ways and in both directions."""
    sections = []
    for direction in DIRECTIONS:
        for better, worse in ((first, second), (second, first)):
            ahead = int((worse.ranks(direction) > better.ranks(direction)).sum())
            cases = disagreements(better, worse, direction, count)
            sections.append(
                Section(
                    direction,
                    f"{TITLES[direction]}: {better.name} ahead of {worse.name}",
                    f"{better.name} ranks {ahead:,} queries better; those of different pictures, by "
                    "difference of rank.",
                    [shown_case(better.lists, case) for case in cases],
                )
            )
    title = f"Where {first.name} and {second.name} disagree"
    return _write(path, title, [first, second], sections, pictures)


def shown_case(lists: KeptLists, case: Case) -> ShownCase:
    """Return a case with the names of its query and items."""
    by_text = case.direction == "t2i"
    return ShownCase(
        lists.captions[case.query] if by_text else "",
        "" if by_text else lists.image_ids[case.query],
        [_shown_answer(lists, case.direction, each) for each in case.answers],
    )


def _shown_answer(lists: KeptLists, direction: str, answer: Answer) -> ShownAnswer:
    names = lists.image_ids if direction == "t2i" else lists.captions

    def hit(item: Item) -> Hit:
        return Hit(names[item.place], item.score, right=item.right)

    beaten_by = answer.beaten_by
    return ShownAnswer(
        answer.model,
        f"{answer.rank:,.1f}".removesuffix(".0"),
        hit(answer.right),
        beaten_by and hit(beaten_by),
        [hit(item) for item in answer.first],
    )


def _looks(case: Case, look: Look) -> list[tuple[str, "ExplanationSection"]]:
    """Return where each word looked in the right pair, and in the pair that beat it."""
    [answer] = case.answers
    pairs = [("the right pair", answer.right), ("what beat it", answer.beaten_by)]
    found = []
    for title, item in pairs:
        if item is not None:
            pair = (item.place, case.query) if case.direction == "t2i" else (case.query, item.place)
            section = look(*pair)
            found += [(title, section)] if section else []
    return found


def _write(
    path: Path,
    title: str,
    results: Sequence[Inspected],
    sections: list[Section],
    pictures: PictureFolder,
) -> Path:
    protocol = results[0].stored.content["protocol"]
    values = {
        "title": title,
        "protocol": protocol,
        "measured": [(each.name, str(each.stored.folder), _recalls(each)) for each in results],
        "sections": sections,
        "pictures": pictures,
    }
    return write_page(path, "cases.html", values)


def _recalls(result: Inspected) -> list[str]:
    content = result.stored.content
    certified = certified_of(content)
    names = [name for name in ("t2i_r1", "i2t_r1", "mean_recall") if name in content["metrics"]]
    return [
        f"{title_of(name)} "
        + (describe(certified[name]) if name in certified else f"{content['metrics'][name]:.1f}")
        for name in names
    ]
