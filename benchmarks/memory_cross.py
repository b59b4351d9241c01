"""Memory of a full cross evaluation: 2,000 images x 10,000 captions against 200 x 1,000.

Random scores, in place of a model's, are written as shards, block by block, and ranked in both directions, as
the tool does. Each size has its own process. The baseline is computed, not run: it is the size of the matrix
of all scores in float32, the least that an evaluation with all scores in memory needs. (The original has a
dict of floats.)
"""

from _report import peak_memory, report, run_child

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZES = {"small": (200, 1_000), "large": (2_000, 10_000)}
TOKENS, REGIONS, WIDTH, WORDS, BLOCK_PAIRS = 10, 2, 4, 1000, 4096
GOAL = 2.0


def main() -> None:
    """Measure both sizes in child processes, and report how much memory the large one adds."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(*SIZES[sys.argv[1]])))
        return
    peaks = {size: run_child(__file__, size)["peak"] for size in SIZES}
    for size, (images, captions) in SIZES.items():
        print(f"{images} x {captions}: peak {peaks[size]:.3f} GB", flush=True)
    images, captions = SIZES["large"]
    report(
        f"memory that {images * captions / 1e6:.0f} million pairs add to an evaluation",
        ours=max(peaks["large"] - peaks["small"], 0.001),
        baseline=images * captions * 4 / 1e9,
        goal=GOAL,
        unit="GB",
        higher_is_better=False,
    )


def measure(images: int, captions: int) -> dict[str, float]:
    """Return, as `peak`, the peak memory in GB of scoring and ranking `images` and `captions`."""
    from engine.runtime import prepare_runtime

    prepare_runtime(device="cpu")
    from engine.evaluation.cross import cross_blocks, rank_cross
    from engine.evaluation.pair_scoring import data_identity, pairs_identity
    from engine.evaluation.scores.shards import ScoreShards

    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), images, captions)
        blocks = cross_blocks(dataset, 1, BLOCK_PAIRS)
        identity = {"checkpoint": "", "model": "", "data": data_identity(dataset)}
        identity["pairs"] = pairs_identity(blocks)
        store = ScoreShards(Path(folder) / "scores", identity, len(blocks))
        random = np.random.default_rng(0)
        for index in store.missing():
            store.write(index, random.random(len(blocks.block(index)), dtype=np.float32))
        rank_cross(blocks, store, dataset, "test")
        return {"peak": peak_memory()}


def make_dataset(folder: Path, images: int, captions: int):
    """Return a data set of `images` images with `captions` captions of random words, evenly distributed."""
    from datasets.captions.load import CaptionSplit
    from datasets.features.npy import NpyFeatures
    from datasets.pair_dataset import PairDataset
    from datasets.words.wordpiece import MARKERS, WordPiece

    random = np.random.default_rng(0)
    np.save(folder / "test_ims.npy", random.random((images, REGIONS, WIDTH), dtype=np.float32))
    words = [f"w{number}" for number in range(WORDS)]
    texts = [" ".join(random.choice(words, TOKENS)) for _ in range(captions)]
    owners = np.arange(captions) // (captions // images)
    split = CaptionSplit("test", [f"{n}.jpg" for n in range(images)], np.arange(images), texts, owners)
    word_piece = WordPiece([*MARKERS, *words])
    return PairDataset(NpyFeatures(folder / "test_ims.npy", WIDTH), split, word_piece, None)


if __name__ == "__main__":
    main()
