"""Sentences as token ids; equal ones are stored, and encoded, once."""

from collections.abc import Sequence

import numpy as np

from datasets.words.packed_tokens import PackedTokens
from datasets.words.sentences import cut_sentence, encode_sentences
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

TokenIds = tuple[int, ...]


class Sentences:
    """Sentences in the batches of a text encoder: captions, or the queries of a user.

    `captions` (strings) is a list of length `num_captions`. `lengths` (int64 [captions]) counts tokens.
    `sentence_ids` (int64 [captions]) are equal if and only if the token ids are equal. `max_seq_len` is the
    maximum length in tokens, markers included, to which a longer sentence is cut; 0 sets no limit.
    """

    def __init__(
        self, texts: Sequence[str], vocabulary: Vocabulary | WordPiece, max_seq_len: int = 0
    ) -> None:
        self.vocabulary = vocabulary
        encoded = encode_sentences(texts, vocabulary)
        self._set_sentences(
            list(texts), [cut_sentence(ids, max_seq_len, vocabulary.end_id) for ids in encoded]
        )

    def text_batch(self, caption_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return `token_ids` int64 [B,T], padded to the longest, and `text_len` int64 [B], by index."""
        return self._sentences.batch(self.sentence_ids[caption_indices], self.vocabulary.pad_id)

    def _set_sentences(self, captions: list[str], encoded: Sequence[TokenIds]) -> None:
        self.captions, self.num_captions = captions, len(captions)
        sentences: dict[TokenIds, int] = {}  # each distinct sentence is stored once
        self.sentence_ids = np.array([sentences.setdefault(ids, len(sentences)) for ids in encoded])
        self._sentences = PackedTokens.of(sentences)
        self.lengths = self._sentences.lengths[self.sentence_ids]
