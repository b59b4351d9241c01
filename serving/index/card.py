"""The card of an index: what it holds, what made it, how it searches, and what that loses."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError, cut
from config.files.whole import write_whole

FILE = "card.json"
FORMAT = 1
MEASURES = ("cosine", "order")
HOLDS = ("pictures", "captions")
MOST_TURNED_AWAY = 0.5


@dataclass(frozen=True)
class Card:
    """All fields of card.json.

    `data` is the folder, in that of the index, that holds the present data, and `previous` the one before the
    model was changed. `bundle` is the identity of the bundle that made the vectors. `engine` and its
    `parameters` search; `recall_at_10` is their share of the ten best by exact search, on `recall_queries`.
    `cutoff` says when nothing fits (serving/index/measured.py). `source` says where the items came from.
    """

    data: str
    holds: str
    count: int
    dimension: int
    measure: str
    bundle: str
    bundle_folder: str = ""
    precision: str = "float32"
    engine: str = "scan"
    rows: int = 0
    check: int = 0
    parameters: dict = field(default_factory=dict)
    recall_at_10: float | None = None
    recall_queries: str = ""
    exact_query_ms: float | None = None
    cutoff: dict | None = None
    build_seconds: float = 0.0
    memory_bytes: int = 0
    source: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    previous: str | None = None
    format: int = FORMAT

    @property
    def usable_cutoff(self) -> dict | None:
        """Return the cut-off, None where it would turn away most right answers, too."""
        return (
            self.cutoff
            if self.cutoff and (self.cutoff["turned_away_rate"] or 0) <= MOST_TURNED_AWAY
            else None
        )

    def describe(self) -> str:
        """Return one line about the index."""
        recall = "" if self.recall_at_10 is None else f", recall@10 {self.recall_at_10:.4f}"
        return (
            f"{self.count:,} {self.holds} of {self.dimension} numbers, {self.measure}, {self.engine}{recall}"
            f", bundle {self.bundle[:12]}"
        )


def bundle_folder(card: Card, given: str | Path | None = None) -> str:
    """Return the folder of an index's bundle: the one that is `given`, or the one that its card names.

    Raises UserError where neither is known, and where the card's is no longer there.
    """
    if given:
        return str(given)
    if not card.bundle_folder:
        raise UserError("--bundle: expected the folder of the bundle, since the index names none")
    if not Path(card.bundle_folder).is_dir():
        raise UserError(
            f"no bundle at {card.bundle_folder}, which the index names: tell where it is now with "
            "--bundle DIR"
        )
    return card.bundle_folder


def read_card(folder: Path) -> Card:
    """Return the card of an index; raise UserError where there is none, or one that cannot be used."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        unfinished = (folder / "building").is_dir()
        what = "the building of this index is not finished: run the same command again" if unfinished else ""
        what = what or "expected the folder of an index, as tools/build_index.py writes it"
        raise UserError(f"{folder}: no {FILE}: {what}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged (not JSON: {cut(error, 80)}): copy the index again") from error
    return card_of(content, str(path))


def card_of(content: object, where: str) -> Card:
    """Return the card that an object from JSON holds; raise UserError, which begins with `where`."""
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{where}: expected the card of an index, got {cut(content, 60)!r}")
    if content["format"] != FORMAT:
        raise UserError(
            f"{where}: format {cut(repr(content['format']))}, and this version reads {FORMAT}: build the "
            "index again"
        )
    kinds = {each.name: each for each in dataclasses.fields(Card)}
    missing = [
        name
        for name, each in kinds.items()
        if each.default is dataclasses.MISSING
        and each.default_factory is dataclasses.MISSING
        and name not in content
    ]
    unknown = sorted(map(cut, set(content) - set(kinds)))
    if missing or unknown:
        raise UserError(f"{where}: damaged (fields: missing {missing[:5]}, unknown {unknown[:5]})")
    card = Card(**content)
    numbers = (card.count, card.dimension, card.rows, card.check, card.memory_bytes)
    right = all(type(number) is int and number >= 0 for number in numbers) and card.dimension > 0
    right = right and all(number < 1 << 63 for number in numbers[:3])
    texts = all(isinstance(text, str) for text in (card.data, card.bundle, card.engine, card.precision))
    objects = all(isinstance(each, dict) for each in (card.parameters, card.source, card.versions))
    inside = isinstance(card.data, str) and card.data.isalnum() and len(card.data) <= 64
    inside = inside and isinstance(card.previous, str | None)
    texts = texts and isinstance(card.bundle_folder, str) and _is_number(card.recall_at_10, optional=True)
    objects = objects and _has_parameters(card) and _has_cutoff(card)
    if not (right and texts and objects and inside and card.measure in MEASURES and card.holds in HOLDS):
        raise UserError(f"{where}: damaged (a field has a value that cannot be): copy the index again")
    return card


def _has_parameters(card: Card) -> bool:
    """Tell whether the parameters are those that `engines/half.py` and `engines/lists.py` need."""
    if card.engine == "float16":
        return _is_number(card.parameters.get("rounding"))
    if card.engine == "lists":
        probes, margin = card.parameters.get("probes"), card.parameters.get("margin", 0)
        return type(probes) is int and 0 < probes < 1 << 31 and _is_number(margin) and margin >= 0
    return True


def _has_cutoff(card: Card) -> bool:
    if card.cutoff is None:
        return True
    cutoff = card.cutoff if isinstance(card.cutoff, dict) else {}
    return _is_number(cutoff.get("deviations")) and _is_number(cutoff.get("turned_away_rate"), optional=True)


def _is_number(value: object, optional: bool = False) -> bool:
    return value is None and optional or type(value) in (int, float) and math.isfinite(value)


def write_card(folder: Path, card: Card) -> None:
    """Replace the card in one step: this is how an index changes its data. Raises UserError."""
    write_whole(folder / FILE, as_json(card), "the index is as it was before")


def as_json(card: Card) -> str:
    """Return the text of card.json."""
    return json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False) + "\n"


def check_bundle(card: Card, identity: str, where: object) -> None:
    """Raise UserError unless the bundle `identity` is the one that the vectors of the index are from."""
    if identity != card.bundle:
        raise UserError(
            f"{where}: built with the bundle {card.bundle[:12]}, and the query is of the bundle "
            f"{identity[:12]}: their numbers mean different things; give --bundle "
            f"{card.bundle_folder or 'the one of the index'}, or build the index with --from"
        )


def present_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, NumPy and other packages."""
    import platform  # both take longer than a search does, and are needed by builds alone
    from importlib import metadata

    versions = {"python": platform.python_version()}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
