"""The page at /, written on the server, so that it works without JavaScript; that replaces results alone.

What is asked stands in the address: q and plus (sentences), minus, like and unlike (ids), where, offset, k.
"""

import mimetypes
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from jinja2 import Environment, FileSystemLoader
from pydantic import ValidationError

from config.errors import UserError
from serving.app.api import Service, usable_cutoff
from serving.app.batching import FullError, LateError
from serving.app.collection import BusyError, UnknownError, Wanted
from serving.app.language import LANGUAGES, preferred, words_of
from serving.app.messages import AnswerMessage, Query, Term
from serving.look import LOOK

HERE = Path(__file__).parent
PAGE = 24  # hits
LESS = -0.5  # the weight of what is not wanted
_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_STATIC = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.is_file()}
_STATIC["look.css"] = LOOK.encode()
_KINDS = {  # of the address: kind of the term, and its weight
    "q": ("text", 1.0),
    "plus": ("text", 1.0),
    "minus": ("text", LESS),
    "like": ("id", 1.0),
    "unlike": ("id", LESS),
}
_KEPT = (*_KINDS, "picture", "where", "rerank", "k", "offset", "lang")


@dataclass(frozen=True)
class Chip:
    """A term as the page shows it, and the address without it."""

    label: str
    kind: str
    weight: float
    without: str


@dataclass(frozen=True)
class Asked:
    """What the address asks for: its parts, in order, and a picture's file, which only the browser has."""

    parts: tuple[tuple[str, str], ...]
    picture: bytes | None = None

    @classmethod
    def of(cls, request: Request, picture: bytes | None = None) -> "Asked":
        """Return what a request asks for; parts that are empty or unknown are left out."""
        given = [(name, value.strip()) for name, value in request.query_params.multi_items()]
        return cls(tuple((name, value) for name, value in given if value and name in _KEPT), picture)

    def get(self, name: str, otherwise: str = "") -> str:
        """Return the first part of a name."""
        return next((value for each, value in self.parts if each == name), otherwise)

    def number(self, name: str, otherwise: int) -> int:
        """Return a part as a number, `otherwise` where it is none."""
        value = self.get(name)
        return int(value) if value.isdecimal() and len(value) < 9 else otherwise

    def terms(self) -> list[tuple[str, str, float]]:
        """Return kind, value and weight of each term."""
        named = [(*_KINDS[name], value) for name, value in self.parts if name in _KINDS]
        return [(kind, value, weight) for kind, weight, value in named]

    def query(self) -> Query:
        """Return the query without the picture; raise ValidationError."""
        terms = [Term(**{kind: value}, weight=weight) for kind, value, weight in self.terms()]
        values = {
            "k": self.number("k", PAGE),
            "offset": self.number("offset", 0),
            "where": self.get("where") or None,
            "rerank": bool(self.get("rerank")),
        }
        return Query(terms=terms or [Term(text="-")], **values)

    def wanted(self) -> tuple[Wanted, ...]:
        """Return all terms, the picture first."""
        first = [Wanted("picture", self.picture)] if self.picture else []
        return (*first, *(Wanted(kind, value, weight) for kind, value, weight in self.terms()))

    def chips(self) -> list[Chip]:
        """Return all terms as the page shows them."""
        chips = []
        for place, (name, value) in enumerate(self.parts):
            rest = [part for number, part in enumerate(self.parts) if number != place and part[0] != "offset"]
            if name in _KINDS:
                chips.append(Chip(value, *_KINDS[name], address(rest)))
            elif name == "picture":
                chips.append(Chip("", "picture", 1.0, address(rest)))
        return chips

    def but(self, **changed: str | None) -> str:
        """Return the address with some parts changed, or left out for None."""
        kept = [part for part in self.parts if part[0] not in changed]
        return address([*kept, *((name, value) for name, value in changed.items() if value is not None)])

    def plus(self, name: str, value: str) -> str:
        """Return the address with a term more."""
        return address([*(part for part in self.parts if part[0] != "offset"), (name, value)])

    def alone(self, name: str, value: str) -> str:
        """Return the address of one term alone, in the same language."""
        return address([(name, value), *(part for part in self.parts if part[0] == "lang")])


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

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise HTTPException(404, "there is no such file")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(_STATIC[name], media_type=kind, headers={"cache-control": "no-cache"})

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
        language = preferred(request.query_params.get("lang"), request.headers.get("accept-language", ""))
        paths = request.app.openapi()["paths"]
        return self._written("docs.html", {"t": words_of(language), "language": language, "paths": paths})

    async def _values(self, request: Request, picture: bytes | None) -> dict:
        asked = Asked.of(request, picture)
        language = preferred(asked.get("lang"), request.headers.get("accept-language", ""))
        words = words_of(language)
        answer, problem = None, ""
        cutoff = usable_cutoff(self._service.collection.card)
        if asked.get("picture") and not picture:
            problem = words["picture_gone"]
        elif asked.wanted():
            answer, problem = await self._answered(asked, words)
        return {
            "t": words,
            "language": language,
            "languages": LANGUAGES,
            "asked": asked,
            "chips": asked.chips(),
            "answer": answer,
            "problem": problem,
            "bars": _bars(answer, cutoff),
            "cutoff": cutoff,
            **await run_in_threadpool(self._about),
        }

    async def _answered(self, asked: Asked, words: dict) -> tuple[AnswerMessage | None, str]:
        try:
            return await self._service.search(asked.query(), asked.wanted()), ""
        except ValidationError as error:
            first = error.errors()[0]
            return None, f"{first['loc'][-1]}: {first['msg']}"
        except UserError as error:
            return None, str(error)
        except UnknownError:
            return None, words["no_such"]
        except FullError:
            return None, words["full"]
        except (LateError, BusyError):
            return None, words["failed"]

    def _about(self) -> dict:
        collection = self._service.collection
        card, bundle = collection.card, collection.bundle
        image = bundle.description.get("image") or {}
        return {
            "card": card,
            "index": collection.name,
            "model": card.bundle[:12],
            "family": bundle.description["family"],
            "date": collection.changed().strftime("%Y-%m-%d") if collection.changed() else "–",
            "reads_pictures": image.get("reads") == "pixels",
            "reads_text": "text" in bundle.description["graphs"],
            "reranks": collection.reranker is not None,
            "examples": collection.examples(),
            "begin": collection.beginning(12) if self._service.thumbnails.shown else [],
            "keys": collection.keys()[:8],
        }

    def _written(self, template: str, values: dict) -> Response:
        with self._service.metrics.timed("render"):
            text = _TEMPLATES.get_template(template).render(values)
        return Response(text, media_type="text/html; charset=utf-8")


def _bars(answer: AnswerMessage | None, cutoff: dict | None) -> list[int]:
    """Return how much of each hit's bar is filled, in percent; half is where hits begin to fit."""
    if answer is None or not answer.hits:
        return []
    if cutoff and answer.hits[0].deviations is not None:
        shares = [(hit.deviations or 0.0) / (2 * cutoff["deviations"]) for hit in answer.hits]
    else:
        scores = [hit.score for hit in answer.hits]
        low, high = min(0.0, *scores), max(scores)
        shares = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    return [round(100 * min(1.0, max(0.02, share))) for share in shares]
