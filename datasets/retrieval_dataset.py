"""Images with captions, as the batches that train and evaluate a retrieval model."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.store import FeatureStore, ImageRegions
from datasets.words.vocabulary import Vocabulary


class RetrievalDataset:
    """One split: pairs of an image and one of its captions, an item a caption.

    num_images, num_captions; image_ids (names) and captions (strings), as lists.
    caption_image: int64 [captions], each caption's image. lengths: int64 [captions], in tokens.
    sentence_ids: int64 [captions], equal where and only where the token ids are equal.

    max_seq_len: longest caption in tokens, markers included; 0: no limit. long_captions: `cut` keeps a
    longer caption's first tokens (and its `<end>`), `drop` leaves it out; num_dropped tells how many
    were. `distinct_captions` leaves out a sentence that its image has already; num_repeats tells how many
    were. Images stay, with or without captions. Raises `UserError` when no caption is left.
    """

    def __init__(
        self,
        features: FeatureStore,
        split: CaptionSplit,
        vocabulary: Vocabulary,
        max_seq_len: int = 0,
        long_captions: str = "cut",
        distinct_captions: bool = False,
        pool_regions: bool = True,
    ) -> None:
        self.name = split.name
        self.features = features
        self.vocabulary = vocabulary
        self.pool_regions = pool_regions
        self.image_ids = split.image_ids
        self.num_images = len(split.image_ids)
        self._image_rows = split.image_rows

        encoded = _encode(split.captions, vocabulary)
        kept = range(len(encoded))
        if max_seq_len and long_captions == "drop":
            kept = [index for index in kept if len(encoded[index]) <= max_seq_len]
        elif max_seq_len:
            encoded = [_cut(ids, max_seq_len, vocabulary.end_id) for ids in encoded]
        self.num_dropped = len(encoded) - len(kept)
        if distinct_captions:
            first = {(split.caption_image[index], encoded[index]): index for index in reversed(kept)}
            kept = sorted(first.values())
        self.num_captions = len(kept)
        self.num_repeats = len(encoded) - self.num_dropped - self.num_captions
        if not kept:
            raise UserError(
                f"{features.path.parent}: all {self.num_dropped} captions of {split.name} are longer than "
                f"INPUT.MAX_SEQ_LEN ({max_seq_len} tokens): raise it, or set INPUT.LONG_CAPTIONS=cut"
            )
        self.captions = [split.captions[index] for index in kept]
        self.caption_image = split.caption_image[np.asarray(kept)]

        # Each different sentence is stored once: its tokens, one sentence after another, and where it starts.
        sentences: dict[tuple[int, ...], int] = {}
        self.sentence_ids = np.array([sentences.setdefault(encoded[index], len(sentences)) for index in kept])
        self._tokens = np.fromiter(chain.from_iterable(sentences), dtype=np.int32)
        sentence_lengths = np.fromiter(map(len, sentences), dtype=np.int64)
        self._starts = np.cumsum(sentence_lengths) - sentence_lengths
        self.lengths = sentence_lengths[self.sentence_ids]

    def describe(self) -> str:
        """One line: what the split holds."""
        left_out = [
            f"{self.num_dropped} longer ones dropped" if self.num_dropped else "",
            f"{self.num_repeats} repeated ones left out" if self.num_repeats else "",
        ]
        besides = f" ({', '.join(filter(None, left_out))})" if any(left_out) else ""
        return (
            f"{self.name}: {self.num_images} images ({self.features.describe(self._image_rows)}), "
            f"{self.num_captions} captions{besides}, {len(self._starts)} different sentences"
        )

    def batch(self, caption_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pairs of B captions and their images.

        features float32 [B,F]; or, of regions that are not pooled, regions float32 [I,R,F] and num_regions
        int64 [I] of the I different images, and image_row int64 [B], each pair's image among them; or, of
        pictures, image float32 [I,3,H,W] and image_row;
        token_ids int64 [B,T], padded to the longest; text_len, image_id, sentence_id int64 [B].
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
        }

    def image_batch(self, image_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the image side of `batch` for images by index."""
        rows = self._image_rows[image_indices]
        values = self.features.gather(rows, self.pool_regions)
        if values.ndim == 2:
            return {"features": values}
        if values.ndim == 4:
            return {"image": values}
        return {"regions": values, "num_regions": self.features.counts(rows)}

    def start_epoch(self, epoch: int) -> None:
        """Cut pictures as in that epoch of training; other features are always the same."""
        self.features.epoch = epoch

    def regions(self, image: int) -> ImageRegions:
        """Return one image's features, not pooled, with the boxes and tags that its file holds."""
        return self.features[int(self._image_rows[image])]

    def check_features(self) -> None:
        """Read the features of up to 2 GB of images; raise `UserError` for a row with NaN or infinity."""
        self.features.check(self._image_rows)

    def feature_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation, float32 [F] each, of the features as a batch has them: pooled or not."""
        return self.features.moments(self._image_rows, self.pool_regions)

    def text_batch(self, caption_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the text side of `batch` (token_ids, text_len) for captions by index."""
        lengths = self.lengths[caption_indices]  # [B]
        starts = self._starts[self.sentence_ids[caption_indices]]  # [B]
        columns = np.arange(lengths.max(initial=0))  # [T]
        present = columns < lengths[:, None]  # [B,T]
        token_ids = np.full(present.shape, self.vocabulary.pad_id, dtype=np.int64)
        token_ids[present] = self._tokens[(starts[:, None] + columns)[present]]
        return {"token_ids": token_ids, "text_len": lengths}


def _encode(captions: Sequence[str], vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """Encode captions, each different text once: data sets repeat many."""
    known = {text: tuple(vocabulary.encode(text)) for text in dict.fromkeys(captions)}
    return [known[text] for text in captions]


def _cut(ids: tuple[int, ...], max_seq_len: int, end_id: int | None) -> tuple[int, ...]:
    if len(ids) <= max_seq_len:
        return ids
    return ids[:max_seq_len] if end_id is None else (*ids[: max_seq_len - 1], end_id)
