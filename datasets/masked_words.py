"""Words that a model has to guess from the rest of the caption and from the image."""

import numpy as np


def mask_words(
    batch: dict[str, np.ndarray], share: float, mask_id: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a batch of `PairDataset` in which a `share` of the captions' tokens is replaced by `mask_id`.

    Each token of a caption, markers aside, is replaced with that probability, in right pairs and in wrong
    ones, so that it does not tell which they are. Those of right pairs are to be guessed, M of them: int64
    [M] `masked_pair` and `masked_place`, where they stand, and `masked_id`, what stood there (the masked
    token loss of Oscar, arXiv 2004.06165, 3.2; the original leaves a tenth as it was and replaces a tenth by
    others). M is at least 1: where chance takes none, the first marker is to be told, and is not hidden.
    """
    tokens = batch["token_ids"]
    columns = np.arange(tokens.shape[1])
    in_caption = (batch["segment_ids"] == 0) & (columns < batch["text_len"][:, None])
    ends = in_caption.sum(axis=1, keepdims=True) - 1  # the places of [SEP]
    masked = (columns > 0) & (columns < ends) & (random.random(tokens.shape) < share)  # [P,T]
    told = masked & (batch["match"] == 1)[:, None]
    if not told.any():
        told[0, 0] = True
    pairs, places = np.nonzero(told)
    return {
        **batch,
        "token_ids": np.where(masked, mask_id, tokens),
        "masked_pair": pairs,
        "masked_place": places,
        "masked_id": tokens[told],
    }
