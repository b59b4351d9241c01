"""The routes under /v1, and what programs ask a service for: whether it lives, is ready, and how it fares."""

import asyncio
import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request, Response
from fastapi import Query as Parameter
from fastapi.concurrency import run_in_threadpool

from config.errors import UnavailableError, UserError
from serving.app.batching import Batcher, FullError
from serving.app.collection import Collection, Found, Question, UnknownError, Wanted, reranked
from serving.app.explaining import explained
from serving.app.messages import (
    MOST_DEPTH,
    MOST_HITS,
    AnswerMessage,
    Compare,
    CompareMessage,
    Content,
    Description,
    ErrorMessage,
    Explain,
    ExplainMessage,
    HitMessage,
    ItemMessage,
    Query,
    Refusal,
    Share,
    Term,
    decoded,
)
from serving.app.metrics import Metrics
from serving.app.pictures import SIZES, Thumbnails, opened, shrunk
from serving.app.settings import Settings
from serving.index.items import Item

REFUSALS = {
    code: {"model": Refusal} for code in (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504)
}
NO_ITEM = "there is no such item, or it has no picture"
_WHERE = "a condition on metadata"
_DAY = "private, max-age=86400"
_INDEX = Parameter(None, max_length=200, description="the index (default: the first)")


@dataclass
class Service:
    """What routes share: one index with what answers it, and the `others`, by name, beside it."""

    collection: Collection
    thumbnails: Thumbnails
    batcher: Batcher
    metrics: Metrics
    settings: Settings
    others: dict[str, "Service"] = field(default_factory=dict)
    beside: bool = False  # of another index, which is the first
    ready: bool = False
    pictures: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.pictures = asyncio.Semaphore(self.settings.pictures_at_once)

    @property
    def names(self) -> list[str]:
        """Return the names of all indexes, the first one first."""
        return [self.collection.name, *self.others]

    def of(self, name: str | None) -> "Service":
        """Return the service of the index of a name, the first one's for none; raise UserError for others."""
        if not name or name == self.collection.name:
            return self
        if name not in self.others:
            near = difflib.get_close_matches(name, self.names, 1)
            meant = f": did you mean {near[0]}?" if near else ""
            raise UserError(f"index: expected one of {', '.join(self.names)}, got {name!r}{meant}")
        return self.others[name]

    def told(self, error: UserError) -> str:
        """Return a message that names indexes and bundles, but not where they lie on this machine."""
        message = str(error)
        for each in (self, *self.others.values()):
            for folder in each.collection.places:
                message = message.replace(folder, folder.rstrip("/").rpartition("/")[2])
        return message

    async def compare(
        self, query: Query, names: Sequence[str], wanted: tuple[Wanted, ...] | None = None
    ) -> dict[str, "AnswerMessage | Exception"]:
        """Return what each of the indexes `names` answers at the same time, or the error that it raised."""
        services = [self.of(name) for name in names]
        asked = [service.search(query, wanted) for service in services]
        return dict(zip(names, await asyncio.gather(*asked, return_exceptions=True), strict=True))

    async def search(self, query: Query, wanted: tuple[Wanted, ...] | None = None) -> AnswerMessage:
        """Answer a query; `wanted` are its terms where they are no JSON. Raises UserError and others."""
        began = time.perf_counter()
        collection, reranking = self.collection, query.rerank
        if wanted is None:
            large = any(term.picture or term.features for term in query.terms)  # the rest needs no thread
            wanted = await run_in_threadpool(query.wanted) if large else query.wanted()
        if reranking and (collection.reranker is None or [each.kind for each in wanted] != ["text"]):
            raise UserError("rerank: expected one sentence, and a service that was started with --rerank")
        most = min(query.offset + query.k + 1, MOST_DEPTH)
        most = max(most, collection.rerank_k) if reranking else most
        seconds = min(query.deadline or self.settings.deadline_seconds, self.settings.deadline_seconds)
        question = Question(wanted, most, query.where, reranking)
        if any(each.kind == "picture" for each in wanted):
            if self.pictures.locked():
                raise FullError
            async with self.pictures:
                found = await self.batcher.ask(question, seconds)
        else:
            found = await self.batcher.ask(question, seconds)
        hits = found.answer.hits
        if reranking:
            with self.metrics.timed("rerank"):
                hits = await run_in_threadpool(reranked, collection, wanted[0].value, hits)
        return self._message(query, wanted, found, hits, time.perf_counter() - began)

    def _message(self, query: Query, wanted, found: Found, hits, seconds: float) -> AnswerMessage:
        card, answer = self.collection.card, found.answer
        scale, cutoff = answer.scale, None if query.where else card.usable_cutoff
        page = hits[query.offset : query.offset + query.k]
        end = query.offset + len(page)
        made = []
        for rank, hit in enumerate(page, start=query.offset + 1):
            deviations = scale(hit.score) if scale and not hit.before else None
            made.append(
                HitMessage(
                    rank=rank,
                    id=hit.id,
                    score=hit.score,
                    deviations=deviations,
                    fits=None if deviations is None or not cutoff else deviations >= cutoff["deviations"],
                    caption=hit.caption,
                    metadata=hit.metadata,
                    thumbnail=self.thumbnail(hit.id),
                    shares=[
                        Share(term=each.label, weight=each.weight, share=share)
                        for each, share in zip(wanted, hit.shares, strict=False)
                    ],
                    rank_before=hit.before or None,
                )
            )
        steps = {name: round(taken * 1000, 3) for name, taken in found.seconds.items()}
        return AnswerMessage(
            hits=made,
            offset=query.offset,
            next_offset=end if len(hits) > end and end < MOST_DEPTH else None,
            fits=answer.fits,
            reason=_reason(answer, cutoff, hits),
            unknown_words=found.unknown,
            items=card.count,
            index=self.collection.name,
            model=card.bundle[:12],
            milliseconds={**steps, "total": round(seconds * 1000, 3)},
        )

    def thumbnail(self, identity: str, size: int | None = None) -> str | None:
        """Return the address of an item's thumbnail, None where the collection has no pictures."""
        if not self.thumbnails.shown:
            return None
        asked = {"index": self.collection.name} if self.beside else {}
        asked |= {"size": str(size)} if size else {}
        return f"/v1/thumbnails/{quote(identity, safe='')}" + (f"?{urlencode(asked)}" if asked else "")


def _reason(answer, cutoff: dict | None, hits: list) -> str | None:
    if not hits:
        return "nothing was found"
    if answer.fits is not False or not cutoff:
        return None
    return (
        f"nothing here fits: the best is {answer.deviations:.2f} standard deviations above the usual score, "
        f"expected {cutoff['deviations']:.2f}"
    )


def routes(service: Service) -> APIRouter:
    """Return all routes for programs."""
    router = APIRouter(responses=REFUSALS)
    add_health(router, service)
    add_search(router, service)
    add_items(router, service)
    return router


def add_health(router: APIRouter, service: Service) -> None:
    """Add what a supervisor asks for."""

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "alive"}

    @router.get("/ready")
    async def ready(response: Response) -> dict[str, str]:
        """Say whether queries are answered: every kind has been, once."""
        response.status_code = 200 if service.ready else 503
        return {"status": "ready" if service.ready else "starting"}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return counters as Prometheus reads them."""
        all_services = [service, *service.others.values()]
        service.metrics.items.set(sum(each.collection.card.count for each in all_services))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def add_search(router: APIRouter, service: Service) -> None:
    """Add what searches and explains."""

    @router.get("/v1/search")
    async def search_sentence(
        q: str = Parameter(min_length=1, max_length=2000, description="a sentence"),
        minus: str | None = Parameter(None, min_length=1, max_length=2000, description="what is not wanted"),
        k: int = Parameter(20, ge=1, le=MOST_HITS, description="hits of a page"),
        offset: int = Parameter(0, ge=0, le=MOST_DEPTH - 1, description="hits before the page"),
        where: str | None = Parameter(None, min_length=1, max_length=2000, description=_WHERE),
        rerank: bool = Parameter(False, description="put the best in the order of the pair scorer"),
        index: str | None = _INDEX,
    ) -> AnswerMessage:
        """Search by a sentence."""
        terms = [Term(text=q), *([Term(text=minus, weight=-1)] if minus else [])]
        query = Query(terms=terms, k=k, offset=offset, where=where, rerank=rerank)
        return await service.of(index).search(query)

    @router.post("/v1/search")
    async def search(query: Query) -> AnswerMessage:
        """Search by a sum of sentences, ids, pictures and features, each with a weight."""
        return await service.of(query.index).search(query)

    @router.post("/v1/compare")
    async def compare(query: Compare) -> CompareMessage:
        """Let several indexes answer one query, to see what each model finds."""
        names = list(dict.fromkeys(query.indexes)) or service.names
        answers = await service.compare(query, names)
        for answer in answers.values():
            if isinstance(answer, Exception) and not isinstance(answer, UserError | UnknownError):
                raise answer
        pages = [[hit.id for hit in a.hits] for a in answers.values() if isinstance(a, AnswerMessage)]
        shared = [each for each in pages[0] if all(each in page for page in pages)] if pages else []
        shown = {name: _or_error(service, answer) for name, answer in answers.items()}
        return CompareMessage(answers=shown, shared=shared)

    @router.post("/v1/search/picture", openapi_extra=_BYTES)
    async def search_picture(
        request: Request,
        k: int = Parameter(20, ge=1, le=MOST_HITS, description="hits of a page"),
        offset: int = Parameter(0, ge=0, le=MOST_DEPTH - 1, description="hits before the page"),
        where: str | None = Parameter(None, min_length=1, max_length=2000, description=_WHERE),
        index: str | None = _INDEX,
    ) -> AnswerMessage:
        """Search by a picture, whose file is the body."""
        wanted = (Wanted("picture", await request.body()),)
        query = Query.model_construct(terms=[], k=k, offset=offset, where=where, rerank=False, deadline=None)
        return await service.of(index).search(query, wanted)

    @router.post("/v1/explain")
    async def explain(asked: Explain) -> ExplainMessage:
        """Say what each term, word of a sentence and region of a picture contributes to a score."""
        chosen = service.of(asked.index)
        size = await run_in_threadpool(chosen.thumbnails.size, asked.id)
        wanted = await run_in_threadpool(asked.wanted)
        return await run_in_threadpool(explained, chosen.collection, wanted, asked.id, size)

    @router.get("/v1/info")
    async def info(index: str | None = _INDEX) -> dict:
        """Say what is searched, and by which model."""
        chosen = service.of(index)
        card, bundle = chosen.collection.card, chosen.collection.bundle
        reads = (bundle.description.get("image") or {}).get("reads")
        return {
            **{name: getattr(card, name) for name in ("holds", "count", "dimension", "measure", "engine")},
            "index": chosen.collection.name,
            "indexes": service.names,
            "model": card.bundle[:12],
            "family": bundle.description["family"],
            "image_reads": reads,
            "reads_pictures": bundle.reads_pictures,
            "cutoff": card.cutoff,
            "reranks": chosen.collection.reranker is not None,
        }


def add_items(router: APIRouter, service: Service) -> None:
    """Add what reads and changes items."""

    @router.get("/v1/items/{identity:path}")
    async def item(identity: str, index: str | None = _INDEX) -> ItemMessage:
        """Return what is known of an item."""
        chosen = service.of(index)
        found = await run_in_threadpool(chosen.collection.described, identity)
        return ItemMessage(
            id=found.id,
            caption=found.caption,
            metadata=found.metadata,
            thumbnail=chosen.thumbnail(found.id),
        )

    @router.put("/v1/items/{identity:path}", status_code=200)
    async def put(
        identity: str, content: Content, response: Response, index: str | None = _INDEX
    ) -> dict[str, str]:
        """Add an item (201) or update it (200); it is on the disk and can be found when this returns."""
        new = await run_in_threadpool(_put, service.of(index), identity, content)
        response.status_code = 201 if new else 200
        return {"id": identity, "done": "added" if new else "updated"}

    @router.patch("/v1/items/{identity:path}")
    async def describe(identity: str, description: Description, index: str | None = _INDEX) -> dict[str, str]:
        """Replace caption and metadata of an item."""
        changed = Item(identity, description.caption, description.metadata)
        await run_in_threadpool(service.of(index).collection.describe, changed)
        return {"id": identity, "done": "described"}

    @router.delete("/v1/items/{identity:path}")
    async def delete(identity: str, index: str | None = _INDEX) -> dict[str, str]:
        """Delete an item."""
        chosen = service.of(index)
        await run_in_threadpool(chosen.collection.delete, identity)
        await run_in_threadpool(chosen.thumbnails.remove, identity)
        return {"id": identity, "done": "deleted"}

    @router.get("/v1/thumbnails/{identity:path}", response_class=Response)
    async def thumbnail(identity: str, size: int = Parameter(320), index: str | None = _INDEX) -> Response:
        """Return a small JPEG of an item, of 160, 320, 640 or 1280 pixels."""
        if size not in SIZES:
            raise UserError(f"size: expected one of {', '.join(map(str, SIZES))}, got {size}")
        chosen = service.of(index)
        await run_in_threadpool(chosen.collection.described, identity)
        made = await run_in_threadpool(chosen.thumbnails.get, identity, size)
        if made is None:
            raise UnknownError(identity)
        return Response(made, media_type="image/jpeg", headers={"cache-control": _DAY})


def _or_error(service: Service, answer: AnswerMessage | Exception) -> AnswerMessage | ErrorMessage:
    if isinstance(answer, AnswerMessage):
        return answer
    if isinstance(answer, UserError):
        code = "unavailable" if isinstance(answer, UnavailableError) else "wrong"
        return ErrorMessage(code=code, message=service.told(answer))
    return ErrorMessage(code="unknown", message=NO_ITEM)


def _put(service: Service, identity: str, content: Content) -> bool:
    holds = service.collection.card.holds
    item, kept = Item(identity, content.caption, content.metadata), None
    if not 1 <= len(identity) <= 1000:
        raise UserError("expected an id of 1 to 1000 characters")
    if holds == "captions":
        if not content.caption or content.picture or content.features:
            raise UserError(
                "expected a caption, which is what this index holds, and neither picture nor features"
            )
        wanted = Wanted("text", content.caption)
    else:
        if (content.picture is None) == (content.features is None):
            raise UserError("expected a picture, or its features for a model that reads these")
        wanted = Term(picture=content.picture, features=content.features).wanted()
    if content.picture is not None:
        data = decoded(content.picture)
        kept = shrunk(opened(data, service.settings.upload_pixels), SIZES[-1])
    new = service.collection.put(item, wanted)
    if kept is not None:
        try:
            service.thumbnails.keep(identity, kept)
        except UserError as error:
            raise UnavailableError(f"the item is there, but not its picture: {error}") from error
    return new


_BYTES = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
