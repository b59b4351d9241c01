"""Images with regions and tags, and captions in word pieces: the pairs that a cross encoder reads."""

from collections.abc import Iterable
from copy import copy

import numpy as np

from datasets.captions.load import CaptionSplit
from datasets.features.store import FeatureStore
from datasets.fingerprint import digest_of, digest_of_file
from datasets.pairs import Pairs
from datasets.relevance import Relevance, own_captions
from datasets.words.pair_texts import PairTexts, encode_tags
from datasets.words.unknown_words import describe_unknown, unknown_share
from datasets.words.wordpiece import WordPiece


class PairDataset:
    """One split, of which any image may be paired with any caption.

    A pair is the text `[CLS] caption [SEP] tags [SEP]`, with segment 0 up to the first `[SEP]`, and the
    image's regions (Oscar, arXiv 2004.06165). Captions and tags are tokenized once, here; a batch gathers
    their tokens.

    `image_ids` (names) and `captions` (strings) are lists of length `num_images` and `num_captions`.
    `caption_image` (int64 [captions]) is each caption's image, and `relevance` says which captions are right
    for which images: by default each for its image. `sentence_ids` (int64 [captions]) are equal
    where the token ids are equal, and `distinct_captions` (int64 [sentences]) is the first caption of each
    sentence. `caption_lengths` (int64 [captions]) counts tokens, markers included; `image_lengths` (int64
    [images]) counts tokens of tags and regions together.

    `tags` are the tags of each image. A pair has one segment if its image has no tags, or if `tags` is None.
    `max_seq_len` limits the tokens of a pair as in the original: the caption takes the room that it needs,
    and the tags are cut to the rest. `max_regions` limits an image to its first regions. A global vector is
    one region.
    """

    def __init__(
        self,
        features: FeatureStore,
        split: CaptionSplit,
        word_piece: WordPiece,
        tags: Iterable[list[str]] | None,
        max_seq_len: int = 70,
        max_regions: int = 50,
    ) -> None:
        if max_seq_len < 3:
            raise ValueError(f"expected room for a token between two markers, got max_seq_len={max_seq_len}")
        self.name = split.name
        self.features = features
        self.word_piece = word_piece
        self.max_seq_len, self.max_regions = max_seq_len, max_regions
        self.image_ids, self._image_rows = split.image_ids, split.image_rows
        self.num_images = len(split.image_ids)
        self._tags = encode_tags(tags, self.num_images, word_piece)
        self._region_counts = np.minimum(features.counts(self._image_rows), max_regions)
        self.image_lengths = self._tags.lengths + self._region_counts
        self.caption_ids = split.caption_ids
        self._set_captions(split.captions, split.caption_image, split.relevance)

    def with_texts(self, texts: list[str]) -> "PairDataset":
        """Return a data set of the same images with other captions, such as a user's queries.

        The new captions belong to no image.
        """
        other = copy(self)
        other._set_captions(texts, np.full(len(texts), -1))
        return other

    def fingerprint(self) -> dict[str, str]:
        """Return what tells cheaply whether captions, images and the file of features are the same."""
        return {
            "captions": digest_of(self.captions, self.caption_image),
            "images": digest_of(self.image_ids, self._image_rows),
            "features": digest_of_file(self.features.path),
        }

    def unknown_share(self) -> float:
        """Return the share of the captions' word pieces that are unknown words, in [0, 1]."""
        return unknown_share(self._texts.sentences, self.sentence_ids, self.word_piece)

    def describe(self) -> str:
        """Return one line about what the split holds."""
        unknown = describe_unknown(self.unknown_share())
        return (
            f"{self.name}: {self.num_images} images ({self.features.describe(self._image_rows)}), "
            f"{self.num_captions} captions, {self._texts.num_sentences} different sentences, "
            f"{unknown}{', ' * bool(unknown)}"
            f"{self._tags.lengths.mean():.1f} tokens of tags an image"
        )

    def batch(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Return a batch of P pairs, in which each of the I different images is read once.

        `token_ids` and `segment_ids` are int64 [P,T], padded to the longest text, and `text_len` is int64
        [P]. `regions` (float32 [I,R,F]) and `num_regions` (int64 [I]) are those of the different images, and
        `image_row` (int64 [P]) is the place of each pair's image among them. `match` (int64 [P]) is 1 if the
        caption is the image's own. `image_id` and `caption_id` are int64 [P].
        """
        different, image_row = np.unique(pairs.images, return_inverse=True)
        return {
            **self.text_batch(pairs),
            **self.image_batch(different),
            "image_row": image_row.reshape(-1),
            "match": (self.caption_image[pairs.captions] == pairs.images).astype(np.int64),
            "image_id": pairs.images,
            "caption_id": pairs.captions,
        }

    def text_batch(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Return `token_ids`, `segment_ids` and `text_len` of `batch`."""
        return self._texts.batch(pairs)

    def image_batch(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return `regions` and `num_regions` of `batch`, for images by index."""
        values = self.features.gather(self._image_rows[images], pool=False)
        if values.ndim == 2:
            values = values[:, None]  # [I,1,F]
        return {"regions": values[:, : self.max_regions], "num_regions": self._region_counts[images]}

    def pair_lengths(self, pairs: Pairs) -> np.ndarray:
        """Return the length of each pair in tokens and regions: int64 [P]."""
        return self._texts.lengths(pairs) + self._region_counts[pairs.images]

    def is_own_sentence(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return whether each caption equals one that is right for the image token by token: bool, broadcast.

        Such a pair is no negative even if the caption belongs to another image: data sets repeat sentences.
        """
        return np.isin(self._keys(images, captions), self._right_sentences)

    def check_features(self) -> None:
        """Check the features of up to 2 GB of images; raise `UserError` for a row with NaN or infinity."""
        self.features.check(self._image_rows)

    def feature_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the regions' features, float32 [F] each."""
        return self.features.moments(self._image_rows, pool=False)

    def _set_captions(
        self, captions: list[str], caption_image: np.ndarray, relevance: Relevance | None = None
    ) -> None:
        self.captions, self.caption_image = captions, caption_image
        self.num_captions = len(captions)
        self.relevance = relevance or own_captions(caption_image, self.num_images)
        self._texts = PairTexts(captions, self._tags, self.word_piece, self.max_seq_len)
        self.sentence_ids = self._texts.sentence_ids
        self.distinct_captions = np.unique(self.sentence_ids, return_index=True)[1]
        self.caption_lengths = self._texts.caption_lengths
        keys = [self._keys(caption_image, np.arange(len(captions)))]
        keys.append(self._keys(self.relevance.images, self.relevance.captions))
        self._right_sentences = np.unique(np.concatenate(keys))

    def _keys(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        return images * self._texts.num_sentences + self.sentence_ids[captions]
