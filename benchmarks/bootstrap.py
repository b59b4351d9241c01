"""Bootstrap intervals of all metrics of COCO 5K from ranks, against a loop over scipy.stats.bootstrap.

There are 5,000 images and 25,000 captions, 10,000 resamples over images, and twelve metrics: R@1, R@5, R@10,
mean and median rank in both directions, their sum and mean. The baseline calls SciPy's function for each
metric with its default, BCa, on the images' sums and counts, so that it draws images too. It is slow, so it
draws a hundredth of the resamples, whose time is multiplied by a hundred; the jackknife of BCa, which leaves
each image out once, is run once and counted once. Each measurement has its own process.

The baseline is a fair one: its sums over each image's captions are made beforehand, as ours are. What ours
saves is that all metrics share one draw, that counts of a draw are made without drawing each image
(engine/certificates/resampling.py), that a draw becomes a product of matrices, and that all cores work.
"""

from _report import peak_memory, report, run_child, seconds

import json
import statistics
import sys

IMAGES, CAPTIONS, RESAMPLES, SHARE = 5000, 5, 10_000, 100
SECONDS, MEMORY_GB = 3.0, 0.2


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps({"ours": ours, "scipy": scipy_loop}[sys.argv[1]]()))
        return
    runs, baselines = [run_child(__file__, "ours")], []
    for _ in range(2):
        baselines.append(run_child(__file__, "scipy"))
        runs.append(run_child(__file__, "ours"))
    took = statistics.median(run["seconds"] for run in runs)
    other = statistics.median(run["seconds"] for run in baselines)
    for name in ("low", "high"):
        print(
            f"R@1 image to text, {name}: ours {runs[0][name]:.2f}, SciPy {baselines[0][name]:.2f}", flush=True
        )
        if abs(runs[0][name] - baselines[0][name]) > 1:  # SciPy has a hundred resamples alone
            raise RuntimeError("ours and SciPy disagree: there is nothing to compare")
    name = f"{RESAMPLES:,} resamples of all metrics of COCO 5K"
    report(f"{name}, against scipy.stats.bootstrap", took, other, goal=100, unit="s", higher_is_better=False)
    report(f"{name}, of {SECONDS:g} s", took, SECONDS, goal=1, unit="s", higher_is_better=False)
    memory = max(run["memory"] for run in runs)
    report(f"peak memory of {name}, of 0.2 GB", memory, MEMORY_GB, goal=1, unit="GB", higher_is_better=False)


def ranks():
    """Return made-up ranks of images and captions, some of which are hard for both."""
    import numpy as np

    random = np.random.default_rng(0)
    hard = random.normal(size=IMAGES)
    i2t = np.exp(1.5 * random.normal(size=IMAGES) + hard).astype(int)
    t2i = np.exp(2 * random.normal(size=IMAGES * CAPTIONS) + np.repeat(hard, CAPTIONS) + 1).astype(int)
    return i2t, np.minimum(t2i, IMAGES - 1)


def ours() -> dict:
    import numpy as np

    from engine.certificates.sides import Side, certify
    from engine.ranking.counter import TiedRanks

    sides = {}
    for prefix, found, each in zip(("i2t_", "t2i_"), ranks(), (1, CAPTIONS), strict=True):
        size = len(found)
        relevant, gallery = (CAPTIONS, IMAGES * CAPTIONS) if each == 1 else (1, IMAGES)
        sides[prefix] = Side.of(
            TiedRanks(found, found),
            np.arange(size) // each,
            np.zeros(size, int),
            np.full(size, relevant),
            np.full(size, gallery),
        )
    certified: dict = {}
    took = seconds(lambda: certified.update(certify(sides, "against", RESAMPLES)))
    interval = certified["i2t_r1"].interval
    return {"seconds": took, "memory": peak_memory(), "low": interval.low, "high": interval.high}


def scipy_loop() -> dict:
    import numpy as np
    from scipy import stats

    images = np.arange(IMAGES)
    owners = {"i2t": images, "t2i": np.repeat(images, CAPTIONS)}
    found, intervals = dict(zip(owners, ranks(), strict=True)), {}

    def mean_of(values, owner):
        sums, counts = np.bincount(owner, values), np.bincount(owner)
        return lambda drawn: sums[drawn].sum() / counts[drawn].sum()

    def median_of(values):
        by_image = values.reshape(IMAGES, -1)
        return lambda drawn: np.floor(np.median(by_image[drawn])) + 1

    metrics, recalls = {}, []
    for side, owner in owners.items():
        for k in (1, 5, 10):
            metrics[f"{side}_r{k}"] = mean_of(100.0 * (found[side] < k), owner)
            recalls.append(metrics[f"{side}_r{k}"])
        metrics[f"{side}_meanr"] = mean_of(found[side] + 1.0, owner)
        metrics[f"{side}_medr"] = median_of(found[side])
    metrics["rsum"] = lambda drawn: sum(recall(drawn) for recall in recalls)
    metrics["mean_recall"] = lambda drawn: sum(recall(drawn) for recall in recalls) / 6

    def loop(method: str) -> None:
        for name, statistic in metrics.items():
            result = stats.bootstrap(
                (images,),
                statistic,
                vectorized=False,
                n_resamples=RESAMPLES // SHARE,
                method=method,
                batch=100,
            )
            intervals[name] = result.confidence_interval

    drawing = seconds(lambda: loop("percentile"))
    jackknife = max(0.0, seconds(lambda: loop("BCa")) - drawing)
    low, high = (float(end) for end in intervals["i2t_r1"])
    return {"seconds": drawing * SHARE + jackknife, "memory": peak_memory(), "low": low, "high": high}


if __name__ == "__main__":
    main()
