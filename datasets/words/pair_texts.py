"""The texts of pairs, `[CLS] caption [SEP] tags [SEP]`: the same code for training and for a bundle."""

from collections.abc import Iterable

import numpy as np

from datasets.pairs import Pairs
from datasets.words.packed_tokens import PackedTokens
from datasets.words.wordpiece import WordPiece


class PairTexts:
    """Captions and the tags of images in word pieces, any of which may be paired.

    Captions and tags are tokenized once, here; a batch gathers their tokens. `tags` is what `encode_tags`
    returns. `max_seq_len` limits the tokens of a pair as in Oscar: the caption takes the room that it needs,
    and the tags are cut to the rest. A pair has one segment if its image has no tags.

    `sentence_ids` (int64 [captions]) are equal where the token ids are equal, and `num_sentences` is how many
    different ones there are. `caption_lengths` (int64 [captions]) counts tokens, markers included.
    """

    def __init__(
        self, captions: list[str], tags: PackedTokens, word_piece: WordPiece, max_seq_len: int
    ) -> None:
        self._tags, self._word_piece, self._max_seq_len = tags, word_piece, max_seq_len
        self.sentences, self.sentence_ids = _encode_captions(captions, max_seq_len, word_piece)
        self.num_sentences = len(self.sentences)
        self.caption_lengths = self.sentences.lengths[self.sentence_ids]
        # all tokens in one array, so that a batch of pairs takes one gather
        self._pieces = np.concatenate([self.sentences.ids, tags.ids])

    def batch(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Return `token_ids` and `segment_ids` [P,T], padded to the longest, and `text_len` [P], int64."""
        first, second = self._both_lengths(pairs)  # [P]
        lengths = first + second
        columns = np.arange(lengths.max(initial=0))  # [T]
        present = columns < lengths[:, None]  # [P,T]
        in_tags = present & (columns >= first[:, None])
        starts = self.sentences.starts[self.sentence_ids[pairs.captions]]  # [P]
        tag_starts = len(self.sentences.ids) + self._tags.starts[pairs.images] - first
        places = np.where(in_tags, tag_starts[:, None], starts[:, None]) + columns
        token_ids = np.full(present.shape, self._word_piece.pad_id, dtype=np.int64)
        # clip: the place of the last [SEP] may be past the last image's tags
        token_ids[present] = self._pieces.take(places[present], mode="clip")
        ends = np.flatnonzero(second)
        token_ids[ends, lengths[ends] - 1] = self._word_piece.sep_id
        return {"token_ids": token_ids, "segment_ids": in_tags.astype(np.int64), "text_len": lengths}

    def lengths(self, pairs: Pairs) -> np.ndarray:
        """Return the number of tokens of each pair: int64 [P]."""
        return sum(self._both_lengths(pairs))

    def _both_lengths(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of both segments, int64 [P] each, markers included; the second may have none."""
        first = self.caption_lengths[pairs.captions]
        tags = self._tags.lengths[pairs.images]
        return first, np.where(tags > 0, np.minimum(tags, self._max_seq_len - first - 1) + 1, 0)


def _encode_captions(
    captions: list[str], max_seq_len: int, word_piece: WordPiece
) -> tuple[PackedTokens, np.ndarray]:
    """Return the distinct first segments, and each caption's index among them, int64 [captions]."""
    texts = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    framed = _frame(word_piece.encode_all(list(texts)), max_seq_len, word_piece)
    sentences: dict[bytes, int] = {}
    sentence_of = [sentences.setdefault(framed[row].tobytes(), len(sentences)) for row in range(len(framed))]
    sentence_ids = np.array([sentence_of[texts[caption]] for caption in captions], dtype=np.int64)
    ids = np.frombuffer(b"".join(sentences), dtype=np.int32)
    lengths = np.fromiter((len(row) // ids.itemsize for row in sentences), dtype=np.int64)
    return PackedTokens(ids, lengths), sentence_ids


def _frame(texts: PackedTokens, max_seq_len: int, word_piece: WordPiece) -> PackedTokens:
    """Return the first segment of each text: `[CLS]`, as many tokens as there is room for, `[SEP]`."""
    cut = texts.cut(max_seq_len - 2)
    lengths = cut.lengths + 2
    ends = np.cumsum(lengths)
    ids = np.full(lengths.sum(), word_piece.cls_id, dtype=np.int32)
    ids[ends - 1] = word_piece.sep_id
    inner = np.ones(len(ids), dtype=bool)
    inner[ends - 1] = inner[ends - lengths] = False
    ids[inner] = cut.ids
    return PackedTokens(ids, lengths)


def encode_tags(tags: Iterable[list[str]] | None, num_images: int, word_piece: WordPiece) -> PackedTokens:
    """Return the tokens of each image's tags, without markers; each distinct tag is encoded once."""
    if tags is None:
        return PackedTokens(np.empty(0, np.int32), np.zeros(num_images, np.int64))
    codes: dict[str, int] = {}
    rows, counts = [], []
    for names in tags:
        rows.append(np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int32))
        counts.append(len(names))
    assert len(counts) == num_images, (len(counts), num_images)
    encoded = word_piece.encode_all(list(codes))
    return encoded.joined(np.concatenate([np.empty(0, np.int32), *rows]), np.array(counts, dtype=np.int64))
