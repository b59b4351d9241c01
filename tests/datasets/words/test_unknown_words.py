"""The share of unknown words is counted over all captions, without markers and punctuation."""

import numpy as np
import pytest

from datasets.words.packed_tokens import PackedTokens
from datasets.words.unknown_words import describe_unknown, lines_of_unknown, unknown_share, warn_of_unknown
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

CAPTIONS = ["a dog runs .", "a cat , a cow !", "a dog runs .", "zebra"]


def share_of(vocabulary: Vocabulary | WordPiece) -> float:
    texts = list(dict.fromkeys(CAPTIONS))
    sentences = PackedTokens.of([vocabulary.encode(text) for text in texts])
    return unknown_share(sentences, np.array([texts.index(text) for text in CAPTIONS]), vocabulary)


@pytest.mark.parametrize("layout", ["vse", "vsepp"])
@pytest.mark.parametrize("known", ["a dog runs . , !", "a cat", "a dog runs zebra cat cow"])
def test_the_share_is_that_of_a_recount(known: str, layout: str) -> None:
    vocabulary = Vocabulary.build([known], "simple", 1, layout)
    words = [word for caption in CAPTIONS for word in caption.split()]
    marks = {mark for mark in ".,!" if mark in known}
    counted = [word for word in words if word not in marks]
    unknown = [word for word in counted if word not in known.split()]
    assert share_of(vocabulary) == pytest.approx(len(unknown) / len(counted))


def test_word_pieces_count_as_words() -> None:
    assert share_of(WordPiece.build(["a dog runs . , !"])) == pytest.approx(3 / 11)


def test_more_than_a_quarter_is_a_warning() -> None:
    assert warn_of_unknown("dev", 0.25) == ""
    assert warn_of_unknown("dev", 0.2501).startswith("warning: 25% of the words of dev are not")
    assert (describe_unknown(0.0), describe_unknown(0.031)) == ("", "3.1% of words unknown")
    assert lines_of_unknown("dev", 0.0) == []
    assert lines_of_unknown("dev", 0.031) == ["dev: 3.1% of words unknown"]
