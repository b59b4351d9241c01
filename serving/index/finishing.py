"""Finish an index: choose and build its engine, measure what that loses, and when nothing fits."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from serving.index.card import Card, present_versions
from serving.index.engines import exact, kinds, lists, measured
from serving.index.engines.saved import Saved
from serving.index.sources import Encoder, Source
from serving.index.vectors import VectorFile
from serving.index.view import THREADS

ENGINES = ("auto", "scan", "int8", "float16", "lists")
WANTED_RECALL = 0.95
ENOUGH_MS = 20.0  # an exact query may take so long before the approximate engine is chosen
_LEAST_SENTENCES = 40  # of which a cut-off is made
_MARGINS = np.geomspace(0.005, lists.WIDEST_MARGIN, 40).tolist()  # of lists: each a sixth wider than the last
_SCANNED_BYTES = 32 << 20  # so few vectors are searched without an engine


@dataclass(frozen=True)
class Options:
    """How an index searches: the engine, "auto" for the rule in docs/index.md, and the bytes it may hold."""

    engine: str = "auto"
    memory: int = 8 << 30
    bundle_folder: str = ""


@dataclass
class Queries:
    """Held-out queries [Q,D] and, for each, the rows of the items that it describes.

    `outside` [O,D] are queries that describe none.
    """

    vectors: np.ndarray
    right: list[np.ndarray] = field(default_factory=list)
    outside: np.ndarray | None = None


def finish(
    data: Path, card: Card, options: Options, queries: Queries | None, show: ShowProgress = no_progress
) -> Card:
    """Build the engine of the vectors in `data`, measure it, and return the card.

    Raises OSError, and UserError for what no engine can hold.
    """
    vectors, _ = VectorFile(data, card.dimension).open(card.count)
    versions = present_versions("faiss-cpu")
    card = replace(
        card, versions=versions, rows=0, check=0, parameters={}, engine="scan", precision="float32"
    )
    if not len(vectors):
        raise UserError("nothing to index: the gallery has no items")
    if card.measure == "order":
        if options.engine not in ("auto", "scan"):
            raise UserError(f"order similarity has exact search only: leave out --engine {options.engine}")
        return replace(
            card, recall_at_10=1.0, recall_queries="exact search: no other is known for order similarity"
        )
    kind, known = "captions", queries
    if queries is None or not len(queries.vectors):
        queries, kind = Queries(measured.perturbed(vectors, measured.LIST_QUERIES)), "perturbed items"
    chosen = np.random.default_rng(2).permutation(len(queries.vectors))
    name, exact_ms = _choose(data, vectors, queries.vectors[chosen[:20]], options, show)
    asked = queries.vectors[chosen[: measured.LIST_QUERIES if name == "lists" else measured.QUERIES]]
    show("exact search", 0, len(asked))
    true = measured.true_best(vectors, asked, 10)
    engine, saved = _built(name, data, card, show)
    if name == "lists":
        half = len(asked) // 2  # one half chooses how many lists are looked into, the other measures
        saved = replace(saved, parameters=_calibrate(engine, vectors, asked[:half], true[:half]))
        asked, true = asked[half:], true[half:]
    show("measuring recall", 0, len(asked))
    found = _search(engine, vectors, asked)
    return replace(
        card,
        engine=name,
        rows=saved.rows,
        check=saved.check,
        parameters=saved.parameters,
        precision=kinds.PRECISIONS[name],
        recall_at_10=round(measured.recall(found, true, 10), 4),
        recall_queries=f"{len(asked)} {kind}",
        exact_query_ms=None if exact_ms is None else round(exact_ms, 2),
        cutoff=_cutoff(vectors, known) if known else None,
        memory_bytes=getattr(engine, "memory", 0),
    )


def _built(name: str, data: Path, card: Card, show: ShowProgress) -> tuple[exact.Engine, Saved]:
    """Return an engine for all vectors in `data`, and what is saved of it; files of others are removed."""
    vectors, checks = VectorFile(data, card.dimension).open(card.count)
    for other, file in kinds.FILES.items():
        if other != name:
            (data / file).unlink(missing_ok=True)
    if name == "scan":
        return exact.Scan(vectors, checks, data), Saved("scan", 0, 0, {})
    saved = kinds.build_engine(name, data, vectors, show)
    return kinds.load_engine(data, saved, card.dimension, THREADS), saved


def encoded_queries(encoder: Encoder, source: Source) -> Queries | None:
    """Return at most CALIBRATION random sentences of the source, encoded, and the rows that they describe.

    As many of its sentences about nothing that it holds are `outside`. None without any sentences.
    """
    if source.holds == "captions" or encoder.measure != "cosine" or not (source.queries or source.outside):
        return None
    row_of = {item.id: row for row, item in enumerate(source.items)}
    pairs, outside = _some(source.queries), _some(source.outside)
    vectors = _encoded_texts(encoder, [text for _, text in pairs])
    right = [np.array([row_of[name]]) for name, _ in pairs]
    return Queries(vectors, right, _encoded_texts(encoder, outside))


def _some(sentences: list) -> list:
    chosen = np.random.default_rng(3).permutation(len(sentences))[: measured.CALIBRATION]
    return [sentences[place] for place in np.sort(chosen)]


def _encoded_texts(encoder: Encoder, texts: list[str]) -> np.ndarray:
    parts = [encoder.encode_texts(texts[start : start + 256]) for start in range(0, len(texts), 256)]
    return np.concatenate(parts) if parts else np.empty((0, encoder.dimension), np.float32)


def _choose(
    data: Path, vectors: np.ndarray, asked: np.ndarray, options: Options, show: ShowProgress
) -> tuple[str, float | None]:
    """Return the engine's name, and how long an exact query takes, if that was measured."""
    if options.engine == "lists" and len(vectors) < lists.lists_for(len(vectors)):
        return "scan", None
    if options.engine != "auto":
        return options.engine, None
    if vectors.nbytes <= _SCANNED_BYTES:
        return "scan", None
    count, dimension = vectors.shape
    exact_ms = None
    for name, needed in (("int8", count * (dimension + 16)), ("float16", 2 * count * dimension)):
        if needed <= options.memory:
            saved = kinds.build_engine(name, data, vectors, show)
            engine = kinds.load_engine(data, saved, dimension, THREADS)
            exact_ms = _milliseconds(engine, vectors, asked)
            if exact_ms <= ENOUGH_MS:
                return name, exact_ms
    lists.check_memory(count, dimension, options.memory)
    return "lists", exact_ms


def _milliseconds(engine: exact.Engine, vectors: np.ndarray, queries: np.ndarray) -> float:
    """Return the shortest time that a search for one of `queries` [Q,D] takes: other work counts least."""
    times = []
    for query in queries:
        start = time.perf_counter()
        _search(engine, vectors, query[None])
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def _calibrate(
    engine: lists.InvertedFile, vectors: np.ndarray, asked: np.ndarray, true: list[np.ndarray]
) -> dict:
    """Set the margin of lists to the narrowest that finds enough, and return all parameters for the card.

    It is enough where the mean recall lies above the wanted one by two of its standard errors, so that other
    queries find as much. A query will look into as many lists as the one of these that needs most, at most.
    """
    engine.probes = engine.lists
    for engine.margin in _MARGINS:
        found = measured.recalls(_search(engine, vectors, asked), true, 10)
        if found.mean() - 2 * found.std() / np.sqrt(len(found)) >= WANTED_RECALL:
            break
    looked_into = engine.looked_into(asked)
    engine.probes = int(looked_into.max())
    return {
        "lists": engine.lists,
        "margin": engine.margin,
        "probes": engine.probes,
        "mean_probes": round(float(looked_into.mean()), 2),
    }


def _search(engine: exact.Engine, vectors: np.ndarray, queries: np.ndarray) -> list[np.ndarray]:
    def everything(query: np.ndarray, k: int, allowed: None) -> tuple[np.ndarray, np.ndarray]:
        return exact.best_first(exact.exact_scores(vectors, query), np.arange(len(vectors)), k)

    k = min(10, len(vectors))
    found = engine.search(lambda rows: vectors[rows], queries, k, None, everything)
    return [rows for _, rows in found]


def _cutoff(vectors: np.ndarray, queries: Queries) -> dict | None:
    """Return the cut-off of "nothing here fits"; None where too few sentences are known to calibrate it.

    Sentences that describe nothing here decide where there are enough, otherwise those that do, with the
    items that they describe left out.
    """
    rows = np.random.default_rng(0).permutation(len(vectors))[: measured.SAMPLE]
    sample = vectors[np.sort(rows)]
    usual = wrong = np.empty(0)
    if len(queries.vectors):
        general = measured.sample_scores(sample, queries.vectors)
        best, best_wrong = measured.best_scores(vectors, queries.vectors, queries.right)
        usual, wrong = (measured.normalised(each, general) for each in (best, best_wrong))
    origin = "captions of the gallery"
    if queries.outside is not None and len(queries.outside) >= _LEAST_SENTENCES:
        best, _ = measured.best_scores(vectors, queries.outside, [])
        wrong = measured.normalised(best, measured.sample_scores(sample, queries.outside))
        origin = "captions of other pictures"
    if len(wrong) < _LEAST_SENTENCES:
        return None
    return measured.calibrate_cutoff(wrong, usual) | {"sentences": origin}
