"""One index with the bundle that encodes its queries: searched in batches, changed, followed when switched.

Another process may change the model of the index (tools/build_index.py --from) at any moment. So a batch is
searched again where the index has come to be of another bundle meanwhile.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from config.errors import UnavailableError, UserError
from datasets.pictures.picture import UnreadableError
from serving.app.metrics import Metrics
from serving.app.pictures import grey, opened
from serving.bundle.bundle import Bundle, Extract
from serving.index.address import milvus_address, open_index
from serving.index.card import bundle_folder
from serving.index.index import Hit
from serving.index.items import Item
from serving.index.query import Answer, Asker, Term
from serving.index.reranking import Reranker

LOG = logging.getLogger("retrieval")
_ATTEMPTS = 5
_EXAMPLES_AMONG = 300
_NETWORK_FILES = ("path", "model", "weights")  # of a network in the record of an extraction


class BusyError(Exception):
    """Another process writes into the index, or changes its model; a client may try again later."""


class UnknownError(Exception):
    """There is no item of an id."""


@dataclass(frozen=True)
class Wanted:
    """A term of a query: `value` is a sentence, an id, a picture's bytes, or features [F] or [R,F]."""

    kind: str  # text, id, picture or features
    value: str | bytes | np.ndarray
    weight: float = 1.0

    @property
    def label(self) -> str:
        """Return how answers call the term."""
        return self.value if isinstance(self.value, str) else self.kind


@dataclass(frozen=True)
class Question:
    """A query: its terms, how many of the best are asked for, and a condition on metadata."""

    terms: tuple[Wanted, ...]
    most: int
    where: str | None = None
    rerank: bool = False


@dataclass(frozen=True)
class Found:
    """An answer; `unknown` are words that the model has never seen, and `seconds` go by step."""

    answer: Answer
    unknown: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Model:
    """A bundle and what it remembers of the index that it made."""

    bundle: Bundle
    asker: Asker
    first: list[Item] | None = None  # with the number of items when they were read
    counted: int = -1


class Collection:
    """The index at an address, with its bundle; `bundle` is a folder, by default the one that the card names.

    `extract` makes features of pictures where the bundle tells how its own were made (`Bundle.open`).
    `rerank` is the folder of a bundle that scores pairs, from the features in `rerank_features`, and
    `rerank_k` is how many hits it puts in order. `name` is how answers call the index, by default its
    folder's name. Raises UserError where one of these cannot be opened.
    """

    def __init__(
        self,
        address: str | Path,
        metrics: Metrics,
        bundle: str | None = None,
        pixels: int = 25_000_000,
        rerank: str | None = None,
        rerank_features: str | None = None,
        rerank_k: int = 50,
        name: str | None = None,
        extract: Extract | None = None,
    ) -> None:
        self.address, self.name = str(address), name or Path(str(address)).name
        self._extract = extract
        self._metrics, self._bundle_folder, self._pixels = metrics, bundle, pixels
        self._index = open_index(address)
        self._card = self._index.card
        self._loading, self._writing = threading.Lock(), threading.Lock()
        try:
            self._model = self._open_model()
            self.reranker = None
            if rerank:
                features = rerank_features or self.card.source.get("path", "")
                self.reranker = Reranker(Bundle.open(rerank), features)
            self.rerank_k = rerank_k
        except BaseException:
            self._index.close()
            raise

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    @property
    def card(self):
        """Return the card of the index, with the number of items: the last known, if a server is away."""
        with contextlib.suppress(UnavailableError):
            self._card = self._index.card
        return self._card

    @property
    def places(self) -> list[str]:
        """Return where index and bundle lie, which clients are not told."""
        milvus, bundle = milvus_address(self.address), self._model.bundle
        networks = (bundle.description.get("extraction") or {}).values()
        files = [each.get(name) for each in networks if isinstance(each, dict) for name in _NETWORK_FILES]
        files = [file for file in files if isinstance(file, str) and "/" in file]
        return [*files, str(bundle.folder), self.address, *([milvus[0]] if milvus else [])]

    @property
    def bundle(self) -> Bundle:
        """Return the present bundle."""
        return self._present().bundle

    def examples(self, number: int = 3) -> list[str]:
        """Return short captions of the collection that differ: sentences with which to begin."""
        texts = dict.fromkeys(item.caption for item in self.beginning(_EXAMPLES_AMONG))
        fitting = [text for text in texts if text and 3 <= len(text) <= 60 and self._knows(text)]
        return fitting[:: max(1, len(fitting) // number)][:number]

    def beginning(self, number: int) -> list[Item]:
        """Return some items, spread over the first hundreds, which are read once."""
        model = self._present()
        if model.first is None or model.counted != self._index.card.count:
            model.first = list(islice(self._index.items(), _EXAMPLES_AMONG))
            model.counted = self._index.card.count
        return model.first[:: max(1, len(model.first) // number)][:number]

    def items(self) -> Iterator[Item]:
        """Yield all items in their order."""
        return self._index.items()

    def keys(self) -> list[str]:
        """Return the keys that metadata of some item have, by which conditions can choose."""
        return self._index.keys()

    def changed(self) -> datetime | None:
        """Return when the index last changed; None where only a server knows that."""
        card = Path(self.address) / "card.json"
        return datetime.fromtimestamp(card.stat().st_mtime, timezone.utc) if card.is_file() else None

    def warm_images(self) -> None:
        """Encode an image, where the bundle encodes any."""
        bundle = self._model.bundle
        if "image" not in bundle.description["graphs"]:
            return
        image = bundle.description["image"]
        if image["reads"] == "pixels":
            bundle.encode_pixels(bundle.picture_preparation.read_bytes(grey())[None])
        else:
            shape = (1, 2, image["width"]) if image["reads"] == "regions" else (1, image["width"])
            bundle.encode_features(np.ones(shape, np.float32))

    def described(self, identity: str) -> Item:
        """Return an item; raise UnknownError where there is none."""
        found = self._index.described([identity])
        if not found:
            raise UnknownError(identity)
        return found[0]

    def vector_of(self, identity: str) -> np.ndarray:
        """Return the vector [D] of an item; raise UnknownError where there is none."""
        try:
            return self._index.vectors_of([identity])[0]
        except UserError as error:
            if self._index.described([identity]):
                raise
            raise UnknownError(identity) from error

    def answers(self, questions: Sequence[Question]) -> list[Found | Exception]:
        """Answer questions together; one that is wrong gets the UserError or UnknownError that says why."""
        for _ in range(_ATTEMPTS):
            model = self._present()
            found = self._answered(model, questions)
            if self.card.bundle == model.bundle.identity:
                return found
        return [BusyError("the index changes its model") for _ in questions]

    def vectors(self, wanted: Sequence[Wanted]) -> np.ndarray:
        """Return the vectors [n,D] of terms without ids; raise UserError for a wrong one."""
        return np.stack([term.vector for term in self.terms(wanted)])

    def terms(self, wanted: Sequence[Wanted]) -> list[Term]:
        """Return terms with their vectors; raise UserError or UnknownError for a wrong one."""
        bundle = self._present().bundle
        return [self._term(bundle, each, {}) for each in wanted]

    def put(self, item: Item, wanted: Wanted) -> bool:
        """Add an item, encoded from `wanted`, or update it; return whether it is new.

        When it returns, it is on the disk. Raises UserError for what cannot be encoded, BusyError.
        """
        for _ in range(_ATTEMPTS):
            identity = self._present().bundle.identity
            vector = self.vectors([wanted])
            with self._writer() as index:
                if index.card.bundle == identity:
                    new = not self._index.described([item.id])
                    index.add([item], vector, replace=True)
                    return new
        raise BusyError("the index changes its model")

    def describe(self, item: Item) -> None:
        """Replace caption and metadata of an item; raise UnknownError, BusyError."""
        with self._writer() as index:
            self.described(item.id)
            index.describe([item])

    def delete(self, identity: str) -> None:
        """Delete an item; raise UnknownError, BusyError."""
        with self._writer() as index:
            self.described(identity)
            index.delete([identity])

    @contextlib.contextmanager
    def _writer(self) -> Iterator:
        """Open the index to write, for the moment that it takes: other processes may write in between."""
        with self._writing:
            try:
                index = open_index(self.address, writable=True, resident=False)
            except UnavailableError:
                raise
            except UserError as error:
                raise BusyError(str(error)) from error
            with index:
                yield index

    def _present(self) -> _Model:
        model = self._model
        if self.card.bundle != model.bundle.identity:
            with self._loading:
                if self.card.bundle != self._model.bundle.identity:
                    try:
                        self._model = self._open_model()
                    except UserError as error:  # no fault of the client
                        LOG.error("the index has changed its model, and that cannot be opened: %s", error)
                        raise BusyError(str(error)) from error
                model = self._model
        return model

    def _open_model(self) -> _Model:
        card = self._index.card
        bundle = Bundle.open(bundle_folder(card, self._bundle_folder), extract=self._extract)
        if bundle.identity != card.bundle and card.bundle_folder and hasattr(self, "_model"):
            bundle = Bundle.open(card.bundle_folder, extract=self._extract)  # it has changed its model since
        self._index.check_bundle(bundle.identity)
        if bundle.extracts:
            try:
                bundle.encode_pictures([grey()])
            except UserError as error:
                LOG.warning("%s: no pictures are taken, as queries or items: %s", self.name, error)
                bundle = Bundle.open(bundle.folder)
        return _Model(bundle, Asker(self._index))

    def _knows(self, text: str) -> bool:
        try:
            return not self._model.bundle.unknown_words(text)
        except UserError:
            return False

    def _answered(self, model: _Model, questions: Sequence[Question]) -> list[Found | Exception]:
        began = time.perf_counter()
        found: list = [None] * len(questions)
        unknown: list[list[str]] = [[] for _ in questions]
        texts: dict[str, np.ndarray] = {}
        for place, question in enumerate(questions):
            found[place] = _failure(lambda p=place, q=question: unknown[p].extend(_unknown(model.bundle, q)))
        asked = [q for q, failure in zip(questions, found, strict=True) if failure is None]
        sentences = list(dict.fromkeys(t.value for q in asked for t in q.terms if t.kind == "text"))
        if sentences:
            texts = dict(zip(sentences, model.bundle.encode_texts(sentences), strict=True))
        terms: dict[int, list[Term]] = {}
        for place, question in enumerate(questions):
            if found[place] is None:
                made = terms.setdefault(place, [])
                found[place] = _failure(
                    lambda made=made, q=question: made.extend(
                        self._term(model.bundle, each, texts) for each in q.terms
                    )
                )
        encoded = time.perf_counter()
        self._search(model, questions, terms, found)
        seconds = {"encode": encoded - began, "search": time.perf_counter() - encoded}
        for step, taken in seconds.items():
            self._metrics.steps.labels(step).observe(taken)
        for place, answer in enumerate(found):
            if isinstance(answer, Answer):
                found[place] = Found(answer, unknown[place], seconds)
        return found

    def _search(self, model: _Model, questions: Sequence[Question], terms: dict, found: list) -> None:
        """Fill in the answers of those that have not failed; equal conditions are searched together."""
        groups: dict[str | None, list[int]] = {}
        for place, question in enumerate(questions):
            if found[place] is None:
                groups.setdefault(question.where, []).append(place)
        for where, places in groups.items():
            most = max(questions[place].most for place in places)
            try:
                answers = model.asker.answers([terms[place] for place in places], most, where)
            except (UserError, ValueError):  # one of them is wrong, or the index has changed: each by itself
                answers = [_attempt(partial(_alone, model, questions[p], terms[p])) for p in places]
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer

    def _term(self, bundle: Bundle, wanted: Wanted, texts: dict[str, np.ndarray]) -> Term:
        if wanted.kind == "text":
            vector = texts.get(wanted.value)
            if vector is None:
                bundle.unknown_words(wanted.value)
                vector = bundle.encode_texts([wanted.value])[0]
            return Term(wanted.value, vector, wanted.weight)
        if wanted.kind == "id":
            of_picture = self._index.card.holds == "pictures"
            vector = self.vector_of(wanted.value)
            return Term(wanted.value, vector, wanted.weight, of_picture, wanted.value)
        if wanted.kind == "features":
            features = np.asarray(wanted.value, np.float32)[None]
            return Term("features", bundle.encode_features(features)[0], wanted.weight, True)
        if bundle.extracts:
            opened(wanted.value, self._pixels)
            return Term("picture", bundle.encode_pictures([wanted.value])[0], wanted.weight, True)
        preparation = bundle.picture_preparation
        opened(wanted.value, self._pixels)
        try:
            pixels = preparation.read_bytes(wanted.value)
        except UnreadableError as error:
            raise UserError(f"unreadable picture: {error}") from error
        return Term("picture", bundle.encode_pixels(pixels[None])[0], wanted.weight, True)


def reranked(collection: Collection, text: str, hits: list[Hit]) -> list[Hit]:
    """Return the best hits of a sentence in the order of the pair scorer, and the rest behind them."""
    best, rest = hits[: collection.rerank_k], hits[collection.rerank_k :]
    return [*collection.reranker.reordered(text, best), *rest]


def _alone(model: _Model, question: Question, terms: list[Term]) -> Answer:
    return model.asker.answers([terms], question.most, question.where)[0]


def _unknown(bundle: Bundle, question: Question) -> list[str]:
    words = [
        word for term in question.terms if term.kind == "text" for word in bundle.unknown_words(term.value)
    ]
    return list(dict.fromkeys(words))


def _attempt(make: Callable[[], object]) -> object:
    try:
        return make()
    except (UserError, UnknownError) as error:
        return error
    except ValueError as error:
        return UserError(str(error))


def _failure(make: Callable[[], object]) -> Exception | None:
    made = _attempt(make)
    return made if isinstance(made, Exception) else None
