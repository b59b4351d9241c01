"""What each word of a sentence and each region of a picture contributes: what the score loses without it.

Leaving parts out works with every model, and needs nothing but what a bundle encodes.
"""

import numpy as np

from config.errors import UserError
from datasets.features.formats import open_features
from serving.app.collection import Collection
from serving.app.messages import ExplainMessage, RegionShare, WordShare
from serving.bundle.bundle import Bundle

MOST_WORDS, MOST_REGIONS = 40, 100


def explained(
    collection: Collection, text: str, identity: str, size: tuple[int, int] | None
) -> ExplainMessage:
    """Return the contributions to the score of a sentence with an item, whose picture has a `size`.

    Raises UnknownError, and UserError for a long sentence and for a model that compares otherwise than by
    cosine.
    """
    bundle = collection.bundle
    if bundle.measure != "cosine":
        raise UserError("expected a model that compares by cosine")
    bundle.unknown_words(text)
    words = text.split()
    if len(words) > MOST_WORDS:
        raise UserError(f"expected at most {MOST_WORDS} words, got {len(words)}")
    item = collection.vector_of(identity)
    shortened = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))]
    encoded = bundle.encode_texts([text, *(each or text for each in shortened)])
    scores = encoded @ item
    shares = scores[0] - scores[1:]
    if len(words) == 1:
        shares = scores[:1]
    return ExplainMessage(
        score=float(scores[0]),
        words=[WordShare(word=w, share=float(s)) for w, s in zip(words, shares, strict=True)],
        regions=_regions(collection, bundle, identity, encoded[0], size),
    )


def _regions(
    collection: Collection,
    bundle: Bundle,
    identity: str,
    sentence: np.ndarray,
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
    whole = bundle.encode_features(found.features[None])[0] @ sentence
    left = bundle.encode_features(without) @ sentence
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
