"""Masked words, which a model predicts from the rest of the caption and from the image."""

import numpy as np


def add_masked_pairs(
    batch: dict[str, np.ndarray], share: float, mask_id: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a batch of `PairDataset` with a second copy of each positive pair, in which words are masked.

    Each token of the copy's caption, markers excepted, is replaced by `mask_id` with probability `share`. The
    copies follow the batch's P pairs in `token_ids`, `segment_ids`, `text_len` and `image_row`, and nowhere
    else: `match` still has P entries. M masked tokens are to be predicted: `masked_pair` and `masked_place`
    (int64 [M]) are their rows and columns in `token_ids`, and `masked_id` (int64 [M]) the tokens that stood
    there. M is at least 1: if chance masks nothing, the first marker of the first copy is to be predicted,
    unmasked.
    This is the masked token loss of Oscar (arXiv 2004.06165, 3.2), but the original leaves a tenth of the
    chosen tokens as they were, replaces a tenth by others, and masks words in the pairs whose match it
    predicts.
    """
    right = np.flatnonzero(batch["match"])
    texts = {name: batch[name][right] for name in ("token_ids", "segment_ids", "text_len", "image_row")}
    tokens = texts["token_ids"]
    columns = np.arange(tokens.shape[1])
    in_caption = (texts["segment_ids"] == 0) & (columns < texts["text_len"][:, None])
    ends = in_caption.sum(axis=1, keepdims=True) - 1  # the places of [SEP]
    masked = (columns > 0) & (columns < ends) & (random.random(tokens.shape) < share)
    if not masked.any():
        masked[0, 0] = True
    rows, places = np.nonzero(masked)
    texts["token_ids"] = np.where(masked & (columns > 0), mask_id, tokens)
    return {
        **batch,
        **{name: np.concatenate([batch[name], values]) for name, values in texts.items()},
        "masked_pair": len(batch["match"]) + rows,
        "masked_place": places,
        "masked_id": tokens[masked],
    }
