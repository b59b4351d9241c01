"""The cost laws that are measured: which points, how fast the work itself grows, and the fitted exponents."""

from dataclasses import dataclass

import numpy as np

# The points of each part, in the unit that the part counts.
SIZES: dict[str, tuple[int, ...]] = {
    "train_vsepp": (32, 64, 128, 256, 512, 1024),
    "train_vsrn": (32, 64, 128, 256, 512, 1024),
    "encode": (1000, 3000, 10_000, 30_000, 100_000),
    "rank": (1000, 3000, 10_000, 30_000, 100_000),
    "index_scan": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "index_lists": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "start": (1000, 10_000, 100_000),
    "checkpoint": (1_000_000, 4_000_000, 16_000_000, 64_000_000),
}
TOLERANCE = 0.15  # by which the exponent of the largest points may be above that of the work
LARGEST = 3  # points


@dataclass(frozen=True)
class Law:
    """A cost over the sizes of a part.

    `number` names what was measured; of a time, the wall clock or the processor time is taken. `work` is the
    exponent by which the work itself grows, and `why` says so in a few words.
    """

    title: str
    part: str
    number: str
    unit: str
    work: float
    why: str

    @property
    def is_time(self) -> bool:
        """Tell whether the number is a time, of which two clocks were read."""
        return self.unit == "s"

    def points(self, stored: dict) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return sizes and values [n] of the stored points, and whether other programs ran beside any."""
        of_part = stored["points"].get(self.part, {})
        busy = any(each["busy"] for each in of_part.values())
        clock = ("processor" if busy else "wall") if self.is_time else ""
        name = "_".join(part for part in (self.number, clock) if part)
        sizes = stored_sizes(stored, self.part, name)
        return np.array(sizes, float), np.array([of_part[str(size)][name] for size in sizes]), busy


def stored_sizes(stored: dict, part: str, name: str = "date") -> list[int]:
    """Return the sizes of a part of which the number `name` is stored, ascending."""
    return [size for size in SIZES[part] if name in stored["points"].get(part, {}).get(str(size), {})]


LAWS = (
    Law(
        "VSE++, a training step",
        "train_vsepp",
        "",
        "s",
        1,
        "pairs; the scores of a batch are B x B, but small",
    ),
    Law("VSE++, memory of training", "train_vsepp", "memory", "GB", 1, "activations of the pairs"),
    Law("VSRN, a training step", "train_vsrn", "", "s", 1, "pairs"),
    Law("VSRN, memory of training", "train_vsrn", "memory", "GB", 1, "activations of the pairs"),
    Law("Evaluation: reading", "encode", "read", "s", 1, "captions"),
    Law("Evaluation: encoding", "encode", "encode", "s", 1, "images and captions"),
    Law("Evaluation: memory of encoding", "encode", "encode_memory", "GB", 1, "embeddings"),
    Law("Evaluation: ranking both ways", "rank", "", "s", 2, "5 N x N pairs"),
    Law("Evaluation: memory of ranking", "rank", "memory", "GB", 1, "ranks; scores are made tile by tile"),
    Law("Exact index: build", "index_scan", "build", "s", 1, "vectors"),
    Law("Exact index: a query", "index_scan", "query", "s", 1, "vectors, each of which is read"),
    Law("Exact index: memory of the build", "index_scan", "memory", "GB", 1, "vectors"),
    Law("Inverted file: build", "index_lists", "build", "s", 1.5, "vectors x lists, some sqrt(N)"),
    Law("Inverted file: a query", "index_lists", "query", "s", 0.5, "lists, and what is in a few of them"),
    Law("Inverted file: memory of the build", "index_lists", "memory", "GB", 1, "vectors"),
    Law("Inverted file: on the disk", "index_lists", "disk", "GB", 1, "vectors"),
    Law("Start of a training, to its first step", "start", "", "s", 1, "captions that are read"),
    Law("Checkpoint: write", "checkpoint", "write", "s", 1, "weights and two moments"),
    Law("Checkpoint: read", "checkpoint", "read", "s", 1, "weights and two moments"),
)


def exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """Return the exponent of the power law that is nearest to positive `values` [n] in logarithms."""
    kept = values > 0
    if np.count_nonzero(kept) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes[kept]), np.log(values[kept]), 1)[0])


def grows_too_fast(law: Law, sizes: np.ndarray, values: np.ndarray) -> bool:
    """Tell whether the largest points grow faster than the work."""
    return exponent(sizes[-LARGEST:], values[-LARGEST:]) > law.work + TOLERANCE
