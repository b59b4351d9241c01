"""What of a score each region and each word bears: what is lost without them (occlusion)."""

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
    pair[r, w] = S - S(without r) - S(without w) + S(without both), the part that needs both: it is 0 where
    the region counts for as much without the word as with it.
    """

    score: float
    region: np.ndarray  # float64 [R]
    word: np.ndarray  # float64 [W]
    pair: np.ndarray  # float64 [R,W]


def measure_relevance(
    model: nn.Layer, regions: np.ndarray, token_ids: Sequence[int], words: Sequence[int]
) -> Relevance:
    """Encode an image without each of its regions and a caption without each of its words, and compare.

    `regions` are float32 [R,F], `token_ids` the caption's with its markers, and `words` [W] the places of the
    tokens that are left out, one at a time. Nothing is padded: without one, an image has R - 1 regions.
    Raises ValueError where nothing would remain.
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
        # Differences of differences are small: in double precision they keep what the embeddings tell.
        scores = model.similarity(images.astype("float64"), texts.astype("float64"))  # [R+1,W+1]
    return relevance_from_scores(scores.numpy())


def relevance_from_scores(scores: np.ndarray) -> Relevance:
    """Return the differences of `scores` [R+1,W+1]: row 0 has all regions, row r + 1 lacks r; so columns."""
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
