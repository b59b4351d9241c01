"""Sentences as the token ids that a text encoder reads: the same code for training and for a bundle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a bundle of words runs without the package of word pieces
    from datasets.words.vocabulary import Vocabulary
    from datasets.words.wordpiece import WordPiece


def encode_sentences(texts: Sequence[str], words: "Vocabulary | WordPiece") -> list[tuple[int, ...]]:
    """Return the ids of texts, uncut; each distinct text is encoded once, because data sets repeat many."""
    known = {text: tuple(words.encode(text)) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]


def cut_sentence(ids: tuple[int, ...], longest: int, end_id: int | None) -> tuple[int, ...]:
    """Return the first `longest` ids (0: all), the last of which is `end_id` if there is such a marker."""
    if not longest or len(ids) <= longest:
        return ids
    return ids[:longest] if end_id is None else (*ids[: longest - 1], end_id)
