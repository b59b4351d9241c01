"""Occlusion: the share of a score that each region and each word bears, by scoring without them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from engine.evaluation.protocol import evaluation_mode


@dataclass(frozen=True)
class Relevance:
    """The parts of one image's score with one caption, in units of similarity.

    With S the score: region[r] = S - S(without region r), word[w] = S - S(without word w), and
    pair[r, w] = S - S(without r) - S(without w) + S(without both) is the part that needs both r and w; this
    part is 0 if the region adds as much to the score without the word as with the word.
    """

    score: float
    region: np.ndarray  # float64 [R]
    word: np.ndarray  # float64 [W]
    pair: np.ndarray  # float64 [R,W]


def measure_relevance(
    model: nn.Layer, regions: np.ndarray, token_ids: Sequence[int], words: Sequence[int]
) -> Relevance:
    """Score an image without each of its regions and a caption without each of its words.

    `regions` are float32 [R,F]. `token_ids` are the caption's, with start and end markers. `words` [W] are
    the places of the tokens to leave out, one at a time. There is no padding: an image without one region has
    R - 1 regions. Raises ValueError for fewer than two regions or tokens.
    """
    if len(regions) < 2 or len(token_ids) < 2:
        raise ValueError(f"expected at least two regions and tokens, got {len(regions)} and {len(token_ids)}")
    caption = np.asarray(token_ids, np.int64)
    with evaluation_mode(model), paddle.no_grad():
        images = paddle.concat(
            [_images(model, part) for part in (regions[None], regions[leave_one_out(len(regions))])]
        )
        texts = paddle.concat(
            [
                _texts(model, part)
                for part in (caption[None], caption[leave_one_out(len(caption))[list(words)]])
            ]
        )
        # Differences of differences are small: float64 keeps the rounding errors below them.
        scores = model.similarity(images.astype("float64"), texts.astype("float64"))  # [R+1,W+1]
    return relevance_from_scores(scores.numpy())


def relevance_from_scores(scores: np.ndarray) -> Relevance:
    """Return the differences of `scores` [R+1,W+1].

    Row 0 is the image with all regions, row r + 1 the image without region r. Column 0 is the caption with
    all words, column w + 1 the caption without word w.
    """
    whole = scores[0, 0]
    return Relevance(
        score=float(whole),
        region=whole - scores[1:, 0],
        word=whole - scores[0, 1:],
        pair=whole - scores[1:, :1] - scores[:1, 1:] + scores[1:, 1:],
    )


def leave_one_out(count: int) -> np.ndarray:
    """Return int [count,count-1]: row i holds 0 to count - 1 in order, without i."""
    columns = np.arange(count - 1)
    return columns + (columns >= np.arange(count)[:, None])


def _images(model: nn.Layer, regions: np.ndarray) -> paddle.Tensor:
    count = np.full(len(regions), regions.shape[1], np.int64)
    return model.encode_image({"regions": paddle.to_tensor(regions), "num_regions": paddle.to_tensor(count)})


def _texts(model: nn.Layer, token_ids: np.ndarray) -> paddle.Tensor:
    length = np.full(len(token_ids), token_ids.shape[1], np.int64)
    return model.encode_text({"token_ids": paddle.to_tensor(token_ids), "text_len": paddle.to_tensor(length)})
