"""Words that a model has to guess from the rest of the caption and from the image."""

import numpy as np


def add_masked_pairs(
    batch: dict[str, np.ndarray], share: float, mask_id: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a batch of `PairDataset` with a second copy of each right pair, in which words are hidden.

    Each token of the copy's caption, markers aside, is replaced by `mask_id` with the probability `share`.
    The copies stand behind the batch's P pairs in `token_ids`, `segment_ids`, `text_len` and `image_row`, and
    nowhere else: `match` still has P places. The M hidden tokens are to be guessed: int64 [M] `masked_pair`
    and `masked_place`, where they stand, and `masked_id`, what stood there (the masked token loss of Oscar,
    arXiv 2004.06165, 3.2; the original leaves a tenth as it was, replaces a tenth by others, and hides words
    in the pairs whose match it asks for). M is at least 1: where chance takes none, a first marker is told.
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
