"""What terms, words of sentences and regions of a picture contribute to the score of a query with an item.

The contribution of a word or region is what the score loses without it.

Leaving parts out works with every model, and needs nothing but what a bundle encodes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from config.errors import UserError
from datasets.features.formats import open_features
from serving.app.collection import Collection, Wanted
from serving.app.messages import ExplainMessage, RegionShare, TermShare, WordShare
from serving.bundle.bundle import Bundle
from serving.index.query import Term, combined

MOST_WORDS, MOST_REGIONS = 40, 100


def explained(
    collection: Collection, wanted: Sequence[Wanted], identity: str, size: tuple[int, int] | None
) -> ExplainMessage:
    """Return the contributions to the score of a query with an item, whose picture has a `size`.

    Raises UnknownError, and UserError for a long sentence, for a model that compares otherwise than by
    cosine, and as `Collection.terms` does.
    """
    bundle = collection.bundle
    if bundle.measure != "cosine":
        raise UserError("expected a model that compares by cosine")
    for each in wanted:
        if each.kind == "text" and len(each.value.split()) > MOST_WORDS:
            raise UserError(f"expected at most {MOST_WORDS} words, got {len(each.value.split())}")
    item, terms = collection.vector_of(identity), collection.terms(wanted)
    query = combined(terms)
    length = float(np.linalg.norm(sum(term.weight * term.vector for term in terms)))
    score, shown = float(query @ item), []
    for place, (each, term) in enumerate(zip(wanted, terms, strict=True)):
        share = score if len(terms) == 1 else float(term.vector @ item) * term.weight / length
        words = _words(bundle, terms, place, item, score) if each.kind == "text" else []
        shown.append(TermShare(term=each.label, weight=each.weight, share=share, words=words))
    first = next((term.words for term in shown if term.words), [])
    regions = _regions(collection, bundle, identity, query, size)
    return ExplainMessage(score=score, terms=shown, words=first, regions=regions)


def _words(
    bundle: Bundle, terms: Sequence[Term], place: int, item: np.ndarray, score: float
) -> list[WordShare]:
    """Return what a score loses without each word of the sentence that is the term at `place`."""
    words = terms[place].label.split()
    if len(words) == 1:  # without it, the term is gone
        others = [term for number, term in enumerate(terms) if number != place]
        return [WordShare(word=words[0], share=score - _score(others, item))]
    shares = []
    left = [" ".join(words[:each] + words[each + 1 :]) for each in range(len(words))]
    for word, vector in zip(words, bundle.encode_texts(left), strict=True):
        changed = [*terms[:place], replace(terms[place], vector=vector), *terms[place + 1 :]]
        shares.append(WordShare(word=word, share=score - _score(changed, item)))
    return shares


def _score(terms: Sequence[Term], item: np.ndarray) -> float:
    """Return the score of a sum of terms with an item; 0 for none, and for terms that cancel."""
    try:
        return float(combined(terms) @ item) if terms else 0.0
    except UserError:
        return 0.0


def _regions(
    collection: Collection,
    bundle: Bundle,
    identity: str,
    query: np.ndarray,
    size: tuple[int, int] | None,
) -> list[RegionShare]:
    """Return what the score loses without each region; nothing where the index is not of regions."""
    source = collection.card.source
    image = bundle.description.get("image") or {}
    if source.get("kind") != "features" or image.get("reads") == "pixels":
        return []
    try:
        store = open_features(source["path"])
    except UserError:  # the file has gone, and the index does without it
        return []
    row = _row(store, identity)
    if store.max_regions is None or row is None:
        return []
    found = store[row]
    count = len(found.features)
    if not 2 <= count <= MOST_REGIONS:
        return []
    without = np.stack([np.delete(found.features, place, axis=0) for place in range(count)])
    whole = bundle.encode_features(found.features[None])[0] @ query
    left = bundle.encode_features(without) @ query
    width, height = found.image_size or size or (0, 0)
    scale = np.float32([width, height, width, height])
    boxes = None if found.boxes is None or not width * height else (found.boxes / scale).clip(0, 1).tolist()
    tags = found.tags if found.tags and len(found.tags) == count else None
    return [
        RegionShare(
            box=boxes[place] if boxes else None,
            tag=tags[place] if tags else None,
            share=float(whole - left[place]),
        )
        for place in range(count)
    ]


def _row(store, identity: str) -> int | None:
    if store.row_of is not None:
        return store.row_of.get(identity)
    return int(identity) if identity.isdecimal() and int(identity) < len(store) else None
