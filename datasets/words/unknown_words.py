"""How many words of a split a vocabulary does not know, and when to warn of that."""

import numpy as np

from datasets.words.packed_tokens import PackedTokens
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

MANY = 0.25  # share of unknown words above which a model learns or finds next to nothing


def unknown_share(
    sentences: PackedTokens, sentence_ids: np.ndarray, vocabulary: Vocabulary | WordPiece
) -> float:
    """Return the share of the captions' words that the vocabulary does not know, in [0, 1].

    `sentence_ids` (int [captions]) are the captions' rows of `sentences`. Markers and punctuation do not
    count.
    """
    times = np.repeat(np.bincount(sentence_ids, minlength=len(sentences)), sentences.lengths)
    counts = np.bincount(sentences.ids, weights=times, minlength=len(vocabulary))
    words = counts[vocabulary.are_words()].sum()
    unknown = counts[vocabulary.unk_id]
    return float(unknown / (words + unknown)) if words + unknown else 0.0


def describe_unknown(share: float) -> str:
    """Return the share in words, such as `2.5% of words unknown`; empty if all are known."""
    return f"{100 * share:.1f}% of words unknown" if share else ""


def warn_of_unknown(name: str, share: float) -> str:
    """Return the warning for a split in which too many words are unknown; empty for any other."""
    if share <= MANY:
        return ""
    return (
        f"warning: {100 * share:.0f}% of the words of {name} are not in the vocabulary, and mean nothing to "
        "the model: check INPUT.VOCAB_FILE and INPUT.TOKENIZER, lower INPUT.VOCAB_THRESHOLD, or train on "
        "more captions"
    )


def lines_of_unknown(name: str, share: float) -> list[str]:
    """Return the line of an evaluation on a split's unknown words: none if all are known, or the warning."""
    line = warn_of_unknown(name, share) or f"{name}: {describe_unknown(share)}"
    return [line] if share else []
