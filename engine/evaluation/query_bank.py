"""Query-bank normalisation: what scores high with all queries of a bank is lowered for each query.

A few images and captions are near to most queries, and stand in the way of what each one asks for. The
expected score of an item is its mean over a bank of queries that come from another split, by log-sum-exp, and
each score loses the expected scores of its image and of its caption. An image's is the same for all captions
that are compared with it, so each direction is changed by the items that it ranks alone.

Source: Bogolin et al., Cross Modal Retrieval with Querybank Normalisation, CVPR 2022 (the inverted softmax of
Smith et al., ICLR 2017, over a bank).
"""

from dataclasses import replace

import numpy as np

from engine.evaluation.dual import Encoded
from engine.ranking.similarity import Similarity

_BLOCK = 1024  # items, and queries of a bank, whose scores are in memory at a time


def normalised(
    encoded: Encoded, bank: Encoded, split: str, temperature: float
) -> tuple[Encoded, dict[str, dict[str, int | float | str]]]:
    """Return embeddings whose similarity is normalised by a `bank`, and the entry of a result's protocol.

    The bank's queries are the images and the distinct sentences of `split`. With the similarity s and the
    temperature T, the score of an image and a text is s(image, text) - T log mean exp(s(image, b) / T) over
    the texts b of the bank - T log mean exp(s(b, text) / T) over its images. Both parts are float32, and the
    last column of the embeddings.
    """
    plain = encoded.similarity
    of_images = _expected(encoded.image, bank.text, plain, temperature)
    of_texts = _expected(encoded.text, bank.image, lambda texts, images: plain(images, texts).T, temperature)

    def similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        scores = plain(images[:, :-1], texts[:, :-1])  # [I,T]
        scores = scores - images[:, -1:]
        scores -= texts[:, -1]
        return scores

    extended = replace(
        encoded,
        image=np.column_stack([encoded.image, of_images]),
        text=np.column_stack([encoded.text, of_texts]),
        similarity=similarity,
    )
    sizes = {"images": len(bank.image), "sentences": len(bank.text)}
    return extended, {"query_bank": {"split": split, **sizes, "temperature": temperature}}


def _expected(items: np.ndarray, bank: np.ndarray, similarity: Similarity, temperature: float) -> np.ndarray:
    """Return T log mean exp(score / T) [N] float32 of each of `items` [N,D] over the `bank` [B,D]."""
    found = np.empty(len(items), np.float32)
    for start in range(0, len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        highest, total = np.full(len(block), -np.inf), np.zeros(len(block))
        for first in range(0, len(bank), _BLOCK):
            scores = similarity(block, bank[first : first + _BLOCK]).astype(np.float64) / temperature
            before, highest = highest, np.maximum(highest, scores.max(axis=1))
            total *= np.exp(before - highest)
            total += np.exp(scores - highest[:, None]).sum(axis=1)
        found[start : start + _BLOCK] = temperature * (highest + np.log(total / len(bank)))
    return found
