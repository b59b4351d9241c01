"""Everything that is wrong with a user's photos and captions, collected so that all of it is told at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from config.errors import cut

_SHOWN = 10  # of each kind; the report has all
_LONGEST = 160  # characters of a line


@dataclass(frozen=True)
class Kind:
    """A kind of problem: what it is, and how to mend it.

    Where `stops` is true, something that the user gave cannot be used, so nothing is prepared unless it is
    to be left out.
    """

    name: str
    mend: str
    stops: bool = True


MISSING = Kind("captions of pictures that are not there", "add the pictures, or correct their names")
AMBIGUOUS = Kind("captions whose name fits several pictures", "name each picture with its folder")
UNNAMED = Kind("captions without a picture's name", "fill the name in, or delete the row")
EMPTY = Kind("empty captions", "fill them in, or delete their rows")
LETTERLESS = Kind("captions without a letter", "write a sentence, or delete their rows")
MALFORMED = Kind("rows of another shape", "put a caption that holds the delimiter in double quotes")
TWO_SPLITS = Kind("pictures in two splits", "keep each picture in one split")
UNKNOWN_SPLIT = Kind("captions of an unknown split", "call the splits train, dev and test")
UNREADABLE = Kind("unreadable pictures", "mend them, or take them out of the folder")
UNUSUAL = Kind("photos in formats that are not read", "save them as JPEG or PNG")
SAME_NAME = Kind("pictures whose names differ in case or Unicode form alone", "rename one of each pair")
UNUSABLE_NAME = Kind(
    "names with line breaks, blanks at their ends or bytes that are not UTF-8", "rename them"
)
UNCAPTIONED = Kind("pictures without captions", "they are in the gallery alone", stops=False)
NEAR_DUPLICATES = Kind("near-duplicate pictures across splits", "move each pair into one split", stops=False)
LOOK_ALIKE = Kind("large groups of pictures that look alike", "they are not kept in one split", stops=False)
TWICE = Kind("captions that their picture has already", "each counts; delete the repeated rows", stops=False)
REPEATED = Kind("sentences of dev or test that training has too", "ties count against the model", stops=False)

KINDS = (
    *(MISSING, AMBIGUOUS, UNNAMED, EMPTY, LETTERLESS, MALFORMED, TWO_SPLITS, UNKNOWN_SPLIT, UNREADABLE),
    *(UNUSUAL, SAME_NAME, UNUSABLE_NAME, UNCAPTIONED, TWICE, NEAR_DUPLICATES, LOOK_ALIKE, REPEATED),
)


@dataclass
class Problems:
    """The problems found so far, by kind, each as one line."""

    found: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, line: str) -> None:
        """Record a problem on a line of at most 160 characters; control characters are escaped."""
        shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line[:_LONGEST])
        self.found.setdefault(kind, []).append(cut(shown, _LONGEST))

    @property
    def stops(self) -> int:
        """Return the number of problems of kinds that stop the preparation."""
        return sum(len(lines) for kind, lines in self.found.items() if kind.stops)

    def list_first(self) -> Iterator[str]:
        """Yield lines for a terminal: the count of each kind, and its first ten problems."""
        yield from self._list(_SHOWN)

    def list_all(self) -> Iterator[str]:
        """Yield the same lines with all problems, for a report."""
        yield from self._list(None)

    def _list(self, shown: int | None) -> Iterator[str]:
        for kind in KINDS:
            if lines := self.found.get(kind, []):
                yield f"{'problem' if kind.stops else 'note'}: {len(lines):,} {kind.name}: {kind.mend}"
                yield from (f"  {line}" for line in lines[:shown])
                if len(lines) > len(lines[:shown]):
                    yield f"  and {len(lines) - shown:,} more"
