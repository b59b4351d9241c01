"""Exact search of 100,000 x 1024 by codes of 8 bits a number, against float16 codes (FAISS, SQfp16).

Both find what a sort of all float32 scores finds, which is compared. Random vectors are spread evenly; the
others have clusters, a common mean and columns of falling width, as those of trained models have. Processor
time is measured, of one query and of 64 together.
"""

from _report import alternate, report

import tempfile
import time
from pathlib import Path

import numpy as np

COUNT, WIDTH, QUERIES, HITS, ROUNDS = 100_000, 1024, 64, 20, 7
THREADS = 2


def main() -> None:
    random = np.random.default_rng(0)
    widths = (1 + np.arange(WIDTH, dtype=np.float32)) ** -0.5
    centres = random.standard_normal((501, WIDTH), dtype=np.float32) * widths

    def clustered(count: int) -> np.ndarray:
        vectors = 0.5 * widths * random.standard_normal((count, WIDTH), dtype=np.float32)
        return vectors + centres[random.integers(0, 500, count)] + 2 * centres[500]

    compare("random", lambda count: random.standard_normal((count, WIDTH), dtype=np.float32))
    compare("clustered", clustered)


def compare(name: str, make) -> None:
    """Report both engines on vectors [N,D] that `make` returns, and on queries of the same kind."""
    from serving.index.engines.exact import Scan
    from serving.index.engines.kinds import build_engine, load_engine
    from serving.index.vectors import row_checks

    vectors, queries = (normalised(make(count)) for count in (COUNT, QUERIES))
    everything = Scan(vectors, row_checks(vectors), Path()).everything
    with tempfile.TemporaryDirectory() as temporary:
        ours, baseline = (
            load_engine(Path(temporary), build_engine(kind, Path(temporary), vectors), WIDTH, THREADS)
            for kind in ("int8", "float16")
        )

    def search(engine, together: int) -> list:
        return engine.search(lambda rows: vectors[rows], queries[:together], HITS, None, everything)

    def milliseconds(engine, together: int) -> float:
        began = time.process_time()
        search(engine, together)
        return (time.process_time() - began) * 1000 / together

    for found, expected in zip(search(ours, QUERIES), search(baseline, QUERIES), strict=True):
        if not all(map(np.array_equal, found, expected)):
            raise RuntimeError(f"{name}: the two engines find different hits")
    for together, of in ((1, "a query alone"), (QUERIES, f"a query of {QUERIES} together")):
        times = alternate(
            lambda together=together: milliseconds(ours, together),
            lambda together=together: milliseconds(baseline, together),
            ROUNDS,
        )
        what = f"processor time of {of}, exact in {COUNT:,} x {WIDTH} {name} vectors"
        report(f"{what}: 8 bits, against float16", *times, 1.5, "ms", higher_is_better=False)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
