"""Images with captions, in the batches that train and evaluate a retrieval model."""

from collections.abc import Sequence
from copy import copy

import numpy as np

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.store import FeatureStore
from datasets.fingerprint import digest_of, digest_of_file
from datasets.gallery import Gallery
from datasets.relevance import Relevance, own_captions
from datasets.sentences import Sentences, TokenIds
from datasets.words.sentences import cut_sentence, encode_sentences
from datasets.words.unknown_words import describe_unknown, unknown_share
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece


class RetrievalDataset(Gallery, Sentences):
    """One split of images and captions; an item is one caption with its image.

    `image_ids` (names) and `captions` (strings) are lists of length `num_images` and `num_captions`.
    `caption_image` (int64 [captions]) is each caption's image, and `relevance` says which captions are right
    for which images: by default each for its image. `lengths` (int64 [captions]) counts tokens.
    `sentence_ids` (int64 [captions]) are equal if and only if the token ids are equal.

    `max_seq_len` is the maximum length of a caption in tokens, markers included; 0 sets no limit.
    `long_captions` is `cut`, which keeps a longer caption's first tokens (and its `<end>`), or `drop`, which
    leaves it out; `num_dropped` is the number of captions left out. `distinct_captions` leaves out a sentence
    that its image has already; `num_repeats` is the number of such captions. Images stay, with or without
    captions. `pool_regions` averages an image's regions. Raises `UserError` if no caption is left.
    """

    def __init__(
        self,
        features: FeatureStore,
        split: CaptionSplit,
        vocabulary: Vocabulary | WordPiece,
        max_seq_len: int = 0,
        long_captions: str = "cut",
        distinct_captions: bool = False,
        pool_regions: bool = True,
    ) -> None:
        Gallery.__init__(self, features, split.name, split.image_ids, split.image_rows, pool_regions)
        self.vocabulary, self.max_seq_len = vocabulary, max_seq_len
        encoded = encode_sentences(split.captions, vocabulary)
        kept = range(len(encoded))
        if max_seq_len and long_captions == "drop":
            kept = [index for index in kept if len(encoded[index]) <= max_seq_len]
        encoded = [cut_sentence(ids, max_seq_len, vocabulary.end_id) for ids in encoded]
        self.num_dropped = len(encoded) - len(kept)
        if distinct_captions:
            first = {(split.caption_image[index], encoded[index]): index for index in reversed(kept)}
            kept = sorted(first.values())
        self.num_repeats = len(encoded) - self.num_dropped - len(kept)
        if not kept:
            raise UserError(
                f"{features.path.parent}: all {self.num_dropped} captions of {split.name} are longer than "
                f"INPUT.MAX_SEQ_LEN ({max_seq_len} tokens): raise it, or set INPUT.LONG_CAPTIONS=cut"
            )
        ids = split.caption_ids
        self.caption_ids = [ids[index] for index in kept] if ids else None
        self._set_captions(
            [split.captions[index] for index in kept],
            [encoded[index] for index in kept],
            split.caption_image[np.asarray(kept)],
            split.relevance and split.relevance.with_captions(np.asarray(kept)),
        )

    def with_texts(self, texts: Sequence[str]) -> "RetrievalDataset":
        """Return a data set of the same images with other captions, such as a user's queries.

        The new captions belong to no image.
        """
        other = copy(self)
        encoded = [
            cut_sentence(ids, self.max_seq_len, self.vocabulary.end_id)
            for ids in encode_sentences(texts, self.vocabulary)
        ]
        other._set_captions(list(texts), encoded, np.full(len(texts), -1))
        return other

    def fingerprint(self) -> dict[str, str]:
        """Return what tells cheaply whether captions, images and the file of features are the same."""
        return {
            "captions": digest_of(self.captions, self.caption_image),
            "images": digest_of(self.image_ids, self._image_rows),
            "features": digest_of_file(self.features.path),
        }

    def unknown_share(self) -> float:
        """Return the share of the captions' words that the vocabulary does not know, in [0, 1]."""
        return unknown_share(self._sentences, self.sentence_ids, self.vocabulary)

    def describe(self) -> str:
        """Return one line about what the split holds."""
        left_out = [
            f"{self.num_dropped} longer ones dropped" if self.num_dropped else "",
            f"{self.num_repeats} repeated ones left out" if self.num_repeats else "",
        ]
        besides = f" ({', '.join(filter(None, left_out))})" if any(left_out) else ""
        unknown = describe_unknown(self.unknown_share())
        return (
            f"{self.name}: {self.num_images} images ({self.features.describe(self._image_rows)}), "
            f"{self.num_captions} captions{besides}, {len(self._sentences)} different sentences"
            f"{', ' * bool(unknown)}{unknown}"
        )

    def batch(self, caption_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of B captions with their images.

        `token_ids` is int64 [B,T], padded to the longest caption; `text_len`, `image_id` and `sentence_id`
        are int64 [B]. Global or pooled features are `features`, float32 [B,F]. Otherwise each of the I
        different images is read once, and `image_row` (int64 [B]) is the place of each caption's image among
        them: regions are `regions`, float32 [I,R,F], and `num_regions`, int64 [I]; pictures are `pixels`,
        float32 [I,3,H,W]. Where not each caption is right for its own image alone, `right_sentences`
        (int64 [B,P]) and `right_images` (int64 [B,Q]) are the ids of all that are right for each pair's image
        and caption, padded with -1.
        """
        images = self.caption_image[caption_indices]
        if self.pool_regions:
            image_side = self.image_batch(images)
        else:
            different, image_row = np.unique(images, return_inverse=True)
            image_side = {**self.image_batch(different), "image_row": image_row.reshape(-1)}
        return {
            **image_side,
            **self.text_batch(caption_indices),
            "image_id": images,
            "sentence_id": self.sentence_ids[caption_indices],
            **self._right_ones(images, caption_indices),
        }

    def _right_ones(self, images: np.ndarray, captions: np.ndarray) -> dict[str, np.ndarray]:
        if self._right_lists is None:
            return {}
        of_images, of_captions = self._right_lists
        return {
            "right_sentences": of_images[images],
            "right_images": of_captions[captions],
        }

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch on which the random crops of pictures depend; other features do not depend on it."""
        self.features.epoch = epoch

    def _set_captions(
        self,
        captions: list[str],
        encoded: Sequence[TokenIds],
        caption_image: np.ndarray,
        relevance: Relevance | None = None,
    ) -> None:
        self._set_sentences(captions, encoded)
        self.caption_image = caption_image
        self.relevance = relevance or own_captions(caption_image, self.num_images)
        self._right_lists: tuple[np.ndarray, np.ndarray] | None = None
        if relevance:
            of_images = relevance.lists()
            right_sentences = np.where(of_images < 0, -1, self.sentence_ids[of_images])
            self._right_lists = right_sentences, relevance.turned.lists()
