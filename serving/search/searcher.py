"""Search a gallery with embeddings: sentences find pictures, pictures find pictures and sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from config.errors import UserError
from datasets.names import same_name
from serving.search.index import Index


class Encoder(Protocol):
    """What a search needs of a model, such as `engine.evaluation.encoder.Encoder`."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of sentences: float32 [N,D]."""

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings, float32 [N,D], of images given as features: [F] or [R,F] each."""

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Return the scores [I,T] of images [I,D] and sentences [T,D]; higher is better."""


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    `name` is an image's id or a caption. `score` is higher for a better fit, and None where nothing was
    scored. `right` tells whether the hit belongs to the query. `before` is the place, from 1, that the hit
    had before re-ranking, and 0 without re-ranking.
    """

    name: str
    score: float
    right: bool = False
    before: int = 0


@dataclass(frozen=True)
class CaptionTexts:
    """The distinct sentences about a gallery's images, with their embeddings float32 [sentences,D].

    `own` maps an image's id to its sentences.
    """

    embeddings: np.ndarray
    texts: list[str]
    own: dict[str, set[str]]


class Searcher:
    """Answer queries over a gallery: images with embeddings `images` [N,D] and names `image_ids`.

    `encoder` embeds sentences and compares. `name` tells in messages which images these are. `captions` are
    searched for a picture; without them there are no sentences to find.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: np.ndarray,
        image_ids: Sequence[str],
        name: str = "the gallery",
        captions: CaptionTexts | None = None,
    ) -> None:
        self.encoder, self.images, self.image_ids, self.name = encoder, images, list(image_ids), name
        # Order similarity is not symmetric, so the scores of a search by sentences are transposed.
        self.image_index = Index(
            images, self.image_ids, lambda texts, images: encoder.similarity(images, texts).T
        )
        self._captions = captions

    def images_for_texts(self, texts: Sequence[str], k: int) -> list[list[Hit]]:
        """Return for each sentence the k pictures that fit it best, best first."""
        return _hits(self.image_index.search(self.encoder.encode_text(texts), k))

    def images_for_text(self, text: str, k: int) -> list[Hit]:
        """Return the k pictures that fit a sentence best, best first."""
        return self.images_for_texts([text], k)[0]

    def images_for_image(self, embedding: np.ndarray, k: int, leave_out: str | None = None) -> list[Hit]:
        """Return the k pictures of highest cosine similarity to a picture's embedding [1,D], best first.

        The picture `leave_out` is not among them.
        """
        [hits] = _hits(self._pictures.search(_normalized(embedding), k + 1))
        return [hit for hit in hits if hit.name != leave_out][:k]

    def captions_for_image(self, embedding: np.ndarray, k: int, image_id: str | None = None) -> list[Hit]:
        """Return the k distinct captions that fit a picture's embedding [1,D] best, best first.

        Captions of the image `image_id` are marked as right. The list is empty without captions.
        """
        if self.captions is None:
            return []
        [hits] = _hits(self._sentences.search(embedding, k))
        own = self.captions.own.get(image_id, ()) if image_id is not None else ()
        return [replace(hit, right=hit.name in own) for hit in hits]

    def embedding_of(self, name: str) -> tuple[np.ndarray, str]:
        """Return the embedding [1,D] of an image of the gallery and its id; `name` is its id or file name.

        Raises UserError with the nearest names if there is no such image.
        """
        row = image_row(self.image_ids, name, self.name)
        return self.images[row : row + 1], self.image_ids[row]

    @property
    def captions(self) -> CaptionTexts | None:
        """Return the captions of the gallery, None without any."""
        return self._captions

    @cached_property
    def _pictures(self) -> Index:
        return Index(_normalized(self.images), self.image_ids, lambda queries, images: queries @ images.T)

    @cached_property
    def _sentences(self) -> Index:
        return Index(self.captions.embeddings, self.captions.texts, self.encoder.similarity)


def image_row(image_ids: Sequence[str], name: str, gallery: str) -> int:
    """Return the row of the image whose id or file name is `name`.

    Raises UserError with the nearest names if there is no such image; `gallery` names the images.
    """
    rows = {image_id: row for row, image_id in reversed(list(enumerate(image_ids)))}
    for candidate in (name, Path(name).name, Path(name).stem):
        names = same_name(candidate, rows)
        if len(names) == 1:
            return rows[names[0]]
    files: dict[str, list[str]] = {}  # without their folders
    for image_id in rows:
        files.setdefault(Path(image_id).name, []).append(image_id)
    for candidate in same_name(Path(name).name, files):
        if len(files[candidate]) == 1:
            return rows[files[candidate][0]]
    near = get_close_matches(Path(name).name, list(rows), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"such as {', '.join(list(rows)[:3])}"
    raise UserError(
        f"{name!r} is not an image of {gallery} ({hint}): give the id or file name of one of its images"
    )


def _hits(found: tuple[np.ndarray, np.ndarray]) -> list[list[Hit]]:
    return [
        [Hit(str(name), float(score)) for name, score in zip(names, scores, strict=True)]
        for scores, names in zip(*found, strict=True)
    ]


def _normalized(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
