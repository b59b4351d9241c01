"""How often 95% intervals of recall cover the recall of the population that the test images are drawn from.

    python benchmarks/counts/interval_coverage.py path/to/rsicd_precomp

The population are RSICD's 1,093 test images with the hits and misses of their queries against the whole
gallery, by the embeddings of `ridge.py`. A test set draws n of them, with all their captions, and gets an
interval by three rules: this toolkit's (images are drawn, BCa, Clopper and Pearson at 0 and 100%), the same
with captions drawn one by one, and percentiles of images. Of TRIALS test sets it is counted how many
intervals hold the population's value. Coverage itself is uncertain by 2 points (two standard errors of 500
trials at 95%). The table goes to docs/evaluation.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from ridge import ridge_embeddings
from rank_exactness import ranks

from engine.certificates.bootstrap import replicates
from engine.certificates.sides import Side, certify, strata_of
from engine.ranking.counter import TiedRanks

TRIALS, RESAMPLES = 500, 1000
SIZES = (20, 50, 120, 500)
METRICS = ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10", "rsum")


def main() -> None:
    images, texts, owner, _ = ridge_embeddings(Path(sys.argv[1]))
    i2t, t2i = ranks(images.astype(np.float64) @ texts.astype(np.float64).T, owner)
    t2i = t2i.reshape(len(i2t), -1)
    everything = certify(sides_of(i2t, t2i), "against", 10)
    truth = {name: everything[name].value for name in METRICS}
    print("population: " + ", ".join(f"{name} {value:.2f}" for name, value in truth.items()))
    random = np.random.default_rng(0)
    print(
        f"{'images':>6}  {'rule':<28}" + "".join(f"{name:>9}" for name in METRICS) + f"{'width of rsum':>15}"
    )
    for size in SIZES:
        found = {rule: [] for rule in ("this toolkit", "captions drawn one by one", "percentiles of images")}
        for trial in range(TRIALS):
            drawn = random.integers(len(i2t), size=size)
            sides = sides_of(i2t[drawn], t2i[drawn])
            found["this toolkit"].append(intervals(certify(sides, "against", RESAMPLES, trial)))
            found["percentiles of images"].append(percentiles(sides, trial))
            alone = certify({"t2i_": of_captions(t2i[drawn])}, "against", RESAMPLES, trial)
            found["captions drawn one by one"].append(intervals(alone))
        for rule, ends in found.items():
            ends = np.array(ends)  # [trials,metrics,2]
            wanted = np.array([truth[name] for name in METRICS])
            inside = (ends[:, :, 0] <= wanted + 1e-9) & (wanted - 1e-9 <= ends[:, :, 1])
            shares = "".join(
                f"{100 * share:>9.1f}"
                for share in np.where(np.isnan(ends[0, :, 0]), np.nan, inside.mean(axis=0))
            )
            print(
                f"{size:>6}  {rule:<28}{shares}{np.median(ends[:, -1, 1] - ends[:, -1, 0]):>15.1f}",
                flush=True,
            )


def sides_of(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, Side]:
    """Return both sides of n images with ranks `i2t` [n] and `t2i` [n,5]."""
    size = len(i2t)
    return {
        "i2t_": side(i2t, np.arange(size)),
        "t2i_": side(t2i.reshape(-1), np.repeat(np.arange(size), t2i.shape[1])),
    }


def of_captions(t2i: np.ndarray) -> Side:
    """Return the side of captions as if each stood alone."""
    return side(t2i.reshape(-1), np.arange(t2i.size))


def side(found: np.ndarray, owner: np.ndarray) -> Side:
    count = len(found)
    return Side.of(
        TiedRanks(found, found), owner, np.zeros(count, int), np.ones(count, int), np.full(count, 5000)
    )


def intervals(certified: dict) -> list[tuple[float, float]]:
    alone = "i2t_r1" not in certified  # then the sum is that of one side
    ends = [None if alone and name[:3] != "t2i" else certified[name].interval for name in METRICS]
    return [(each.low, each.high) if each else (np.nan, np.nan) for each in ends]


def percentiles(sides: dict[str, Side], seed: int) -> list[tuple[float, float]]:
    strata, names, _ = strata_of(sides, "against")
    drawn, _ = replicates(strata, RESAMPLES, seed)
    recalls = [column for column, name in enumerate(names) if name[4:] in ("r1", "r5", "r10")]
    columns = {name: drawn[:, place] for place, name in enumerate(names)} | {
        "rsum": drawn[:, recalls].sum(axis=1)
    }
    return [tuple(np.quantile(columns[name], (0.025, 0.975))) for name in METRICS]


if __name__ == "__main__":
    main()
