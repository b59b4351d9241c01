"""Padding that bucketed batches save: tokens computed for each real token, against random batches.

The lengths are those of RSICD's 43,670 training captions, with `<start>` and `<end>`. A recurrent layer of
Paddle computes padding, too, so its cost is the number of computed tokens.
"""

from _report import report

import numpy as np

from datasets.samplers.batches import BatchSampler

# Numbers of captions by length.
RSICD = {
    3: 2, 4: 2, 6: 25, 7: 124, 8: 265, 9: 1280, 10: 4530, 11: 5042, 12: 5967, 13: 5911, 14: 5688, 15: 4415,
    16: 3454, 17: 2241, 18: 1373, 19: 1226, 20: 801, 21: 550, 22: 242, 23: 169, 24: 131, 25: 78, 26: 54,
    27: 36, 28: 21, 29: 13, 30: 9, 31: 12, 32: 1, 34: 3, 35: 2, 36: 1, 37: 2,
}  # fmt: skip
EPOCHS = 5


def main() -> None:
    lengths = np.repeat(list(RSICD), list(RSICD.values()))
    print("batch  batching      computed tokens for each real one")
    for batch_size in (32, 128, 300):
        for batching in ("random", "bucket", "same_length"):
            print(f"{batch_size:5}  {batching:12}  {computed(lengths, batch_size, batching):.3f}")
    report(
        "bucketed batches of 128: tokens computed for each real one, against random batches",
        ours=computed(lengths, 128, "bucket"),
        baseline=computed(lengths, 128, "random"),
        goal=1.5,
        unit="tokens",
        higher_is_better=False,
    )


def computed(lengths: np.ndarray, batch_size: int, batching: str) -> float:
    """Return the padded tokens (batch size x longest caption) per real token, over EPOCHS epochs."""
    sampler = BatchSampler(lengths, batch_size, batching, seed=1)
    batches = [batch for epoch in range(EPOCHS) for batch in sampler.batches(epoch)]
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    return padded / sum(lengths[batch].sum() for batch in batches)


if __name__ == "__main__":
    main()
