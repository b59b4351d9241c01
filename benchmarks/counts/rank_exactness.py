"""How many ranks change between float64 scores and what a processor makes of them, on real embeddings.

    python benchmarks/counts/rank_exactness.py path/to/rsicd_precomp

The ranks of float64 scores, in which equal vectors tie exactly, are compared with those of float32 products
in one piece, in blocks, a row at a time, and by this toolkit, and with vectors rounded to bfloat16, float16
and 8 bits. Ties count against the model. The embeddings are those of `ridge.py`; the table goes to
docs/evaluation.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from ridge import ridge_embeddings

BLOCK = 128


def main() -> None:
    images, texts, owner, _ = ridge_embeddings(Path(sys.argv[1]))
    wide = images.astype(np.float64) @ distinct_product(texts)
    truth = ranks(wide, owner)
    ways = {
        "float32, one product": images @ texts.T,
        f"float32, blocks of {BLOCK}": in_blocks(images, texts),
        "float32, a row at a time": np.stack([texts @ row for row in images]),
    }
    print(f"{'scores':<38}{'i2t other':>10}{'t2i other':>10}{'furthest':>10}{'i2t R@1':>9}{'t2i R@1':>9}")
    show("float64", truth, truth)
    for name, scores in ways.items():
        show(name, ranks(scores, owner), truth)
    for size in (64, 1024):
        show(f"this toolkit, EVAL.BLOCK_SIZE={size}", ours(images, texts, owner, size), truth)
    for name, rounded in (
        ("bfloat16", bfloat16),
        ("float16", lambda x: x.astype(np.float16).astype(np.float32)),
        ("8 bits", bits8),
    ):
        show(
            f"vectors in {name}, float64 sums",
            ranks(rounded(images).astype(np.float64) @ distinct_product(rounded(texts)), owner),
            truth,
        )


def distinct_product(texts: np.ndarray) -> np.ndarray:
    """Return `texts` transposed in float64; equal columns give equal sums, since each is summed alike."""
    return texts.astype(np.float64).T


def ours(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of this toolkit."""
    from engine.ranking.ranks import retrieval_ranks

    return retrieval_ranks(images, texts, np.arange(len(images)), owner, block_size=size)


def ranks(scores: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 0-based ranks of pictures [N] and captions [M]; what ties is ahead."""
    right = owner[None] == np.arange(len(scores))[:, None]
    found = []
    for rows, mask in ((scores, right), (scores.T, right.T)):
        best = np.where(mask, rows, -np.inf).max(axis=1)
        found.append(((rows >= best[:, None]) & ~mask).sum(axis=1))
    return found[0], found[1]


def in_blocks(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    scores = np.empty((len(images), len(texts)), np.float32)
    for row in range(0, len(images), BLOCK):
        for column in range(0, len(texts), BLOCK):
            scores[row : row + BLOCK, column : column + BLOCK] = (
                images[row : row + BLOCK] @ texts[column : column + BLOCK].T
            )
    return scores


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def bits8(values: np.ndarray) -> np.ndarray:
    """Return values rounded to 8 bits, with a scale for each row."""
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    return np.round(values / scale) * scale


def show(name: str, found: tuple, truth: tuple) -> None:
    other = [int((each != true).sum()) for each, true in zip(found, truth, strict=True)]
    furthest = max(int(np.abs(each - true).max()) for each, true in zip(found, truth, strict=True))
    recalls = [100 * float((each < 1).mean()) for each in found]
    print(
        f"{name:<38}{other[0]:>10}{other[1]:>10}{furthest:>10}{recalls[0]:>9.2f}{recalls[1]:>9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
