"""The page at /, written on the server, so that it works without JavaScript; that replaces results alone.

What is asked stands in the address: q and plus (sentences), minus, like and unlike (ids), each with a weight
as in `plus:0.5=a dog`; where, offset, k; and, where several are served, index and the one `beside` it.
"""

import hashlib
import math
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from jinja2 import Environment, FileSystemLoader
from pydantic import ValidationError

from config.errors import UnavailableError, UserError, cut
from serving.app.api import Service
from serving.app.batching import FullError, LateError
from serving.app.collection import BusyError, UnknownError, Wanted
from serving.app.language import LANGUAGES, preferred, words_of
from serving.app.messages import AnswerMessage, Query, Term
from serving.bundle.bundle import UnknownWordsError
from serving.look import LOOK

HERE = Path(__file__).parent
PAGE = 24  # hits
LESS = -0.5  # the weight of what is not wanted
_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_STATIC = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.is_file()}
_STATIC["look.css"] = LOOK.encode()
# Their address changes with what is in them, so that a browser keeps them and never asks for them again.
_VERSION = hashlib.sha256(b"".join(_STATIC[name] for name in sorted(_STATIC))).hexdigest()[:12]
STATIC = f"/static/{_VERSION}"
MODULES = sorted(name for name in _STATIC if name.endswith(".js"))
_KINDS = {  # of the address: kind of the term, and its weight unless the name says another, as in plus:0.5
    "q": ("text", 1.0),
    "plus": ("text", 1.0),
    "minus": ("text", LESS),
    "like": ("id", 1.0),
    "unlike": ("id", LESS),
    "picture": ("picture", 1.0),
}
_KEPT = (*_KINDS, "where", "rerank", "k", "offset", "lang", "index", "beside")
_IN_DIALOG = {"rank", "id", "caption", "metadata", "thumbnail", "shares"}  # what its script reads of a hit
STEP, MOST_WEIGHT = 0.25, 4.0


@dataclass(frozen=True)
class Chip:
    """A term as the page shows it, and the addresses without it and, where possible, with another weight.

    `name` is what the address calls it, without its weight. `share` is its part of the scores of the hits
    that are shown, on average; None where nothing was found.
    """

    label: str
    name: str
    kind: str
    weight: float
    without: str
    less: str | None
    more: str | None
    share: float | None = None


@dataclass(frozen=True)
class Asked:
    """What the address asks for: its parts, in order, and a picture's file, which only the browser has."""

    parts: tuple[tuple[str, str], ...]
    picture: bytes | None = None

    @classmethod
    def of(cls, request: Request, picture: bytes | None = None) -> "Asked":
        """Return what a request asks for; parts that are empty or unknown are left out."""
        given = [(name, value.strip()) for name, value in request.query_params.multi_items()]
        return cls(tuple((name, value) for name, value in given if value and _base(name) in _KEPT), picture)

    def get(self, name: str, otherwise: str = "") -> str:
        """Return the first part of a name."""
        return next((value for each, value in self.parts if _base(each) == name), otherwise)

    def number(self, name: str, otherwise: int) -> int:
        """Return a part as a number, `otherwise` where it is none."""
        value = self.get(name)
        return int(value) if value.isdecimal() and len(value) < 9 else otherwise

    def terms(self) -> list[tuple[str, str, float]]:
        """Return kind, value and weight of each term; the value of a picture is its name in the browser."""
        named = [(*_term(name), value) for name, value in self.parts if _base(name) in _KINDS]
        return [(kind, value, weight) for kind, weight, value in named]

    def query(self) -> Query:
        """Return the query without the picture; raise ValidationError."""
        named = [each for each in self.terms() if each[0] != "picture"]
        terms = [Term(**{kind: value}, weight=weight) for kind, value, weight in named]
        values = {
            "k": self.number("k", PAGE),
            "offset": self.number("offset", 0),
            "where": self.get("where") or None,
            "rerank": bool(self.get("rerank")),
        }
        return Query(terms=terms or [Term(text="-")], **values)

    def wanted(self) -> tuple[Wanted, ...]:
        """Return all terms as the collection takes them."""
        terms = [
            Wanted(kind, self.picture if kind == "picture" else value, weight)
            for kind, value, weight in self.terms()
        ]
        return tuple(term for term in terms if term.value)

    def chips(self, answer: AnswerMessage | None = None) -> list[Chip]:
        """Return all terms as the page shows them, with their shares of the hits of an answer."""
        chips, rows = [], [hit.shares for hit in answer.hits if hit.shares] if answer else []
        for place, (name, value) in enumerate(self.parts):
            if _base(name) not in _KINDS:
                continue
            kind, weight = _term(name)
            shares = [row[len(chips)].share for row in rows if len(chips) < len(row)]
            chips.append(
                Chip(
                    "" if kind == "picture" else value,
                    _base(name),
                    kind,
                    weight,
                    self._with(place, None),
                    self._with(place, abs(weight) - STEP) if abs(weight) > STEP else None,
                    self._with(place, min(MOST_WEIGHT, abs(weight) + STEP))
                    if abs(weight) < MOST_WEIGHT
                    else None,
                    sum(shares) / len(shares) if shares else None,
                )
            )
        return chips

    def _with(self, place: int, weight: float | None) -> str:
        """Return the address with another weight of the part at a place, or without it for None."""
        name, value = self.parts[place]
        new = [] if weight is None else [(f"{_base(name)}:{weight:g}", value)]
        parts = [*self.parts[:place], *new, *self.parts[place + 1 :]]
        return address(part for part in parts if part[0] != "offset")

    def but(self, **changed: str | None) -> str:
        """Return the address with some parts changed, or left out for None."""
        kept = [part for part in self.parts if part[0] not in changed]
        return address([*kept, *((name, value) for name, value in changed.items() if value is not None)])

    def plus(self, name: str, value: str) -> str:
        """Return the address with a term more."""
        return address([*(part for part in self.parts if part[0] != "offset"), (name, value)])

    def alone(self, name: str, value: str) -> str:
        """Return the address of one term alone, in the same language and index."""
        return address(
            [(name, value), *(part for part in self.parts if part[0] in ("lang", "index", "beside"))]
        )


@dataclass(frozen=True)
class Side:
    """What one index answers, or why it does not; `bars` are those of the hits, in percent."""

    name: str
    about: dict
    answer: AnswerMessage | None
    problem: str
    cutoff: dict | None
    bars: list[int]

    @property
    def ranks(self) -> dict[str, int]:
        """Return the rank of each hit that is shown, by its id."""
        return {hit.id: hit.rank for hit in self.answer.hits} if self.answer else {}


def _base(name: str) -> str:
    return name.partition(":")[0]


def _term(name: str) -> tuple[str, float]:
    """Return the kind and the weight of a term, by its name in the address; the sign is the name's."""
    base, _, given = name.partition(":")
    kind, usual = _KINDS[base]
    try:
        size = float(given)
    except ValueError:
        return kind, usual
    return kind, math.copysign(size, usual) if 0 < size <= MOST_WEIGHT else usual


def address(parts) -> str:
    """Return the address of the page that asks for `parts`."""
    return "/?" + urlencode(list(parts))


def page_routes(service: Service) -> APIRouter:
    """Return the routes for people."""
    router = APIRouter(include_in_schema=False)
    view = View(service)

    @router.get("/")
    async def page(request: Request) -> Response:
        return await view.page(request)

    @router.get("/results")
    async def results(request: Request) -> Response:
        return await view.results(request, None)

    @router.post("/results")
    async def results_of_picture(request: Request) -> Response:
        return await view.results(request, await request.body())

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return view.docs(request)

    @router.get("/static/{version}/{name}")
    async def static(version: str, name: str) -> Response:
        if name not in _STATIC or version != _VERSION:
            raise HTTPException(404, "there is no such file")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        kept = {"cache-control": "private, max-age=31536000, immutable"}
        return Response(_STATIC[name], media_type=kind, headers=kept)

    @router.get("/favicon.ico")
    async def icon() -> Response:
        return Response(_STATIC["icon.svg"], media_type="image/svg+xml")

    return router


class View:
    """Writes the page for what is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def page(self, request: Request) -> Response:
        """Return the whole page."""
        values = await self._values(request, None)
        return self._written("page.html", values)

    async def results(self, request: Request, picture: bytes | None) -> Response:
        """Return the part of the page that an answer changes."""
        return self._written("results.html", await self._values(request, picture))

    def docs(self, request: Request) -> Response:
        """Return what programs can call, from the OpenAPI description."""
        return self._written("docs.html", {**_spoken_to(request), "paths": request.app.openapi()["paths"]})

    def missing(self, request: Request) -> Response:
        """Return what a person sees at an address that is none."""
        return self._written("missing.html", _spoken_to(request), 404)

    async def _values(self, request: Request, picture: bytes | None) -> dict:
        asked = Asked.of(request, picture)
        language = preferred(asked.get("lang"), request.headers.get("accept-language", ""))
        words, problem, names = words_of(language), "", self._service.names
        name = asked.get("index", names[0])
        if name not in names:
            name, problem = names[0], words["no_index"].format(name=name)
        beside = asked.get("beside")
        shown = [name, beside] if beside in names and beside != name else [name]
        sides = []
        if asked.get("picture") and not picture:
            problem = words["picture_gone"]
        elif asked.wanted():
            found = await self._answered(asked, shown)
            sides = [await run_in_threadpool(self._side, name, each, words) for name, each in found.items()]
        about = [await run_in_threadpool(self._about, each) for each in shown]
        answer = next((side.answer for side in sides if side.answer), None)
        return {
            "t": words,
            "language": language,
            "languages": LANGUAGES,
            "asked": asked,
            "chips": asked.chips(sides[0].answer if sides else None),
            "sides": sides,
            "answered": bool(answer),
            "problem": problem or ("" if answer else " ".join(dict.fromkeys(each.problem for each in sides))),
            "say": _spoken(sides, words),
            "names": names,
            "shown": shown,
            "abouts": about,
            **about[0],
        }

    async def _answered(self, asked: Asked, names: list[str]) -> dict[str, AnswerMessage | Exception]:
        try:
            return await self._service.compare(asked.query(), names, asked.wanted())
        except ValidationError as error:
            first = error.errors()[0]
            return dict.fromkeys(names, UserError(f"{first['loc'][-1]}: {first['msg']}"))

    def _side(self, name: str, found: AnswerMessage | Exception, words: dict) -> Side:
        service, about = self._service.of(name), self._about(name)
        cutoff = service.collection.card.usable_cutoff
        if isinstance(found, AnswerMessage):
            return Side(name, about, found, "", cutoff, _bars(found, cutoff))
        if isinstance(found, UnknownWordsError):
            told = words["knows_none"].format(words=", ".join(map(cut, found.words[:5])))
            return Side(name, about, None, told, cutoff, [])
        if isinstance(found, UserError):
            return Side(name, about, None, service.told(found), cutoff, [])
        told = {UnknownError: "no_such", FullError: "full", LateError: "failed", BusyError: "failed"}
        if type(found) not in told:
            raise found
        return Side(name, about, None, words[told[type(found)]], cutoff, [])

    def _about(self, name: str) -> dict:
        service = self._service.of(name)
        collection = service.collection
        card, bundle = collection.card, collection.bundle
        return {
            "card": card,
            "index": collection.name,
            "model": card.bundle[:12],
            "family": bundle.description["family"],
            "date": collection.changed().strftime("%Y-%m-%d") if collection.changed() else "–",
            "reads_pictures": bundle.reads_pictures,
            "reads_text": "text" in bundle.description["graphs"],
            "reranks": collection.reranker is not None,
            "thumbnail": service.thumbnail,
            **self._beginning(service),
        }

    @staticmethod
    def _beginning(service: Service) -> dict[str, list]:
        """Return what a person may begin with; nothing where the index's server is away."""
        collection, shown = service.collection, service.thumbnails.shown
        try:
            return {
                "examples": collection.examples(),
                "begin": collection.beginning(12) if shown else [],
                "keys": collection.keys()[:8],
            }
        except UnavailableError:
            return {"examples": [], "begin": [], "keys": []}

    def _written(self, template: str, values: dict, status: int = 200) -> Response:
        values = {**values, "found_words": found_words, "in_dialog": _IN_DIALOG}
        values |= {"static": STATIC, "modules": MODULES}
        with self._service.metrics.timed("render"):
            text = _TEMPLATES.get_template(template).render(values)
        return Response(text, status, media_type="text/html; charset=utf-8")


def _spoken_to(request: Request) -> dict:
    """Return the language in which a person is spoken to, and the words of the page in it."""
    language = preferred(request.query_params.get("lang"), request.headers.get("accept-language", ""))
    return {"t": words_of(language), "language": language}


def is_for_people(request: Request) -> bool:
    """Tell whether an answer is for a person: a browser asks for HTML, and under /v1 are programs alone."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")


def _spoken(sides: list[Side], words: dict) -> str:
    """Return what the live region says when an answer is there."""
    said = []
    for side in sides:
        name = f"{side.name}: " if len(sides) > 1 else ""
        none = f"{words['no_fit']} " if side.answer and side.answer.fits is False else ""
        said.append(name + none + (found_words(side.answer, words) if side.answer else side.problem))
    return " ".join(said)


def found_words(answer: AnswerMessage, words: dict) -> str:
    """Return a sentence on how much of how much is shown."""
    if not answer.hits:
        return words["nothing"]
    last, items = answer.offset + len(answer.hits), f"{answer.items:,}"
    return words["found"].format(first=answer.offset + 1, last=last, items=items)


def _bars(answer: AnswerMessage, cutoff: dict | None) -> list[int]:
    """Return how much of each hit's bar is filled, in percent; half is where hits begin to fit."""
    if not answer.hits:
        return []
    if cutoff and answer.hits[0].deviations is not None:
        shares = [(hit.deviations or 0.0) / (2 * cutoff["deviations"]) for hit in answer.hits]
    else:
        scores = [hit.score for hit in answer.hits]
        low, high = min(0.0, *scores), max(scores)
        shares = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    return [round(100 * min(1.0, max(0.02, share))) for share in shares]
