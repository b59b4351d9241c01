"""Puts the service together: routes, the guard before them, errors as JSON, and a start that is warm."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from itertools import islice

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from config.errors import UnavailableError, UserError
from serving.app.api import NO_ITEM, Service, routes
from serving.app.batching import Batcher, FullError, LateError
from serving.app.collection import BusyError, Collection, Question, UnknownError, Wanted
from serving.app.guard import FULL, Guard, written_refusal
from serving.app.metrics import Metrics
from serving.app.page import View, is_for_people, page_routes
from serving.app.pictures import Thumbnails
from serving.app.settings import Settings

_ABOUT = """Search a collection by sentences, pictures, items and sums of them. Hits come best first, with the
share of each term; where nothing fits, the answer says so."""


def make_app(
    collection: Collection,
    thumbnails: Thumbnails,
    settings: Settings,
    metrics: Metrics,
    others: Sequence[tuple[Collection, Thumbnails]] = (),
) -> FastAPI:
    """Return the ASGI application; it closes the collections when it is shut down.

    `others` are collections that are served beside the first, each under its name. It is warm when its start
    is over. Raises UserError, then, where a query of some kind is not answered, and for equal names.
    """
    settings.check()

    def serving(each: Collection, pictures: Thumbnails, beside: bool) -> Service:
        batcher = Batcher(each.answers, metrics, settings.most_together, settings.queue)
        return Service(each, pictures, batcher, metrics, settings, beside=beside)

    service = serving(collection, thumbnails, False)
    for each, pictures in others:
        if each.name in service.names:
            raise UserError(f"--index: two are called {each.name}: rename the folder of one")
        service.others[each.name] = serving(each, pictures, True)
    services = [service, *service.others.values()]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for each in services:
            warm(each.collection)
        service.ready = True
        yield
        service.ready = False
        for each in services:
            each.batcher.close()
            each.collection.close()

    app = FastAPI(
        title="Retrieval",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere; /docs is our own
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.service = service
    app.include_router(routes(service))
    app.include_router(page_routes(service))
    add_errors(app, View(service))
    unread = written_refusal()

    def is_full() -> bool:
        return all(each.batcher.refuses() for each in services)

    def refusal() -> bytes | None:
        if not is_full():
            return None
        metrics.refused.labels("full").inc()
        metrics.requests.labels("/v1/search", "429").inc()
        return unread

    app.state.refusal = refusal
    app.add_middleware(Guard, settings=settings, metrics=metrics, is_full=is_full)
    return app


def warm(collection: Collection) -> None:
    """Answer one query of every kind, so that a user's first is not slow; raise UserError if one fails."""
    graphs = collection.bundle.description["graphs"]
    kinds = [Wanted("id", item.id) for item in islice(collection.items(), 1)]
    if "text" in graphs:
        kinds += [Wanted("text", sentence) for sentence in collection.examples(1)]
    for wanted in kinds:
        (found,) = collection.answers([Question((wanted,), 10)])
        if isinstance(found, Exception):
            raise found
    collection.warm_images()


def add_errors(app: FastAPI, view: View) -> None:
    """Turn every exception that a client can cause into its status and one sentence.

    People who come to an address that is none see a page of `view`.
    """

    def told(status: int, code: str, message: str, **headers: str) -> JSONResponse:
        body = {"error": {"code": code, "message": message}}
        return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        return told(422, "wrong", request.app.state.service.told(error))

    @app.exception_handler(UnavailableError)
    async def unavailable(request: Request, error: UnavailableError) -> JSONResponse:
        return told(503, "unavailable", request.app.state.service.told(error), retry_after="5")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return told(422, "invalid", f"{place}: {first['msg']}"[:500].encode("utf-8", "replace").decode())

    @app.exception_handler(UnknownError)
    async def unknown(request: Request, error: UnknownError) -> JSONResponse:
        return told(404, "unknown", NO_ITEM)

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> JSONResponse:
        return told(429, "full", FULL, retry_after="1")

    @app.exception_handler(LateError)
    async def late(request: Request, error: LateError) -> JSONResponse:
        return told(504, "deadline", "the answer was not ready in time", retry_after="1")

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return told(503, "busy", "another process changes this index: try again later", retry_after="5")

    @app.exception_handler(StarletteHTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and is_for_people(request):
            return view.missing(request)
        return told(error.status_code, "http", str(error.detail))
