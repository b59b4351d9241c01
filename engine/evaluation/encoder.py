"""Embeds pictures and sentences, wherever they come from, with a trained dual encoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from paddle import nn

from config.errors import UserError, cut
from config.progress import ShowProgress
from datasets.features.memory import MemoryFeatures
from datasets.features.store import FeatureStore
from datasets.gallery import Gallery
from datasets.sentences import Sentences
from datasets.words.vocabulary import Vocabulary
from engine.evaluation.dual import encode_captions, encode_images
from engine.ranking.similarity import similarity_of


class Encoder:
    """A trained dual encoder with the vocabulary that it was trained with.

    `max_seq_len` is the maximum length of a sentence in tokens (0: no limit), to which longer ones are cut.
    `sees_regions` tells whether the model takes an image's regions, and not one vector, the mean of them.
    `batch_size` is the number of images in a batch.
    """

    def __init__(
        self,
        model: nn.Layer,
        vocabulary: Vocabulary,
        max_seq_len: int = 0,
        sees_regions: bool = False,
        batch_size: int = 1024,
    ) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.sees_regions = sees_regions
        self._max_seq_len, self._batch_size = max_seq_len, batch_size
        self.measure = model.measure
        self._similarity = similarity_of(model.measure)

    def encode_text(self, texts: Sequence[str], progress: ShowProgress | None = None) -> np.ndarray:
        """Return the embeddings of sentences: float32 [N,D].

        Raises `UserError` for a sentence without words, or without one that is in the vocabulary.
        """
        for text in texts:
            words = self.vocabulary.tokens(text)
            if not words:
                raise UserError(f"expected a sentence, got {text[:80]!r}")
            if len(self.unknown_words(text)) == len(set(words)):
                raise UserError(
                    f"no word of {cut(text, 80)!r} is in the vocabulary; use words of the training captions"
                )
        sentences = Sentences(texts, self.vocabulary, self._max_seq_len)
        encoded, sentence = encode_captions(self.model, sentences, self._batch_size, progress)
        return encoded[sentence]

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings, float32 [N,D], of images given as features, [F] or [R,F] each."""
        vectors = [np.atleast_2d(np.asarray(image, np.float32)) for image in images]
        has_regions = self.sees_regions or any(len(each) > 1 for each in vectors)
        ids = [str(row) for row in range(len(vectors))]
        return self.encode_gallery(self.gallery_of(MemoryFeatures(vectors, ids, Path("images"), has_regions)))

    def encode_gallery(self, gallery: Gallery, progress: ShowProgress | None = None) -> np.ndarray:
        """Return the embeddings of all images of a gallery or a data set: float32 [images,D]."""
        return encode_images(self.model, gallery, self._batch_size, progress)

    def gallery_of(self, features: FeatureStore, name: str = "") -> Gallery:
        """Return the images of a feature store or of a `PictureStore`, as the model sees them.

        Raises `UserError` for a store of one vector an image if the model needs regions.
        """
        if self.sees_regions and features.max_regions is None:
            raise UserError(
                f"{features.path}: one vector an image, but the model needs regions [images, regions, "
                "features]: extract regions, or take a run of MODEL.NAME=vsepp"
            )
        return Gallery(features, name or str(features.path), pool_regions=not self.sees_regions)

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Return the scores [I,T] of embeddings of images [I,D] and of sentences [T,D]; higher is better."""
        return self._similarity(images, texts)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that are not in the vocabulary, each once."""
        words = dict.fromkeys(self.vocabulary.tokens(text))  # keeps the order
        return [word for word in words if not self.vocabulary.knows(word)]
