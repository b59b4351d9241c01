"""The gain by setting threads and math library before Paddle is imported, against Paddle as shipped.

Both sides are measured in turns, in fresh processes: the product of two 2048 x 2048 matrices, and a training
step (forward and backward) of a GRU 300 -> 1024 on a batch of 128 captions of 20 words.

On AMD processors, threads and math library together should double the speed. On others, where MKL needs no
help, only threads count: n threads give at most n times the speed, and should give three quarters of it.
"""

from _report import report, run_child, seconds

import json
import statistics
import sys
from pathlib import Path

from engine.runtime import choose_threads, mkl_needs_help

SIZE = 2048
WORD_DIM, HIDDEN, BATCH, WORDS = 300, 1024, 128, 20
ROUNDS = 5


def main() -> None:
    if len(sys.argv) == 2:
        measure(sys.argv[1])
        return
    measured = {"tuned": [], "shipped": []}
    for number in range(ROUNDS):
        for side, results in measured.items():
            results.append(run_child(__file__, side))
            print(f"round {number + 1} of {ROUNDS}, {side}: {describe(results[-1])}", flush=True)
    tuned, shipped = ({key: median_of(results, key) for key in results[0]} for results in measured.values())
    print(f"tuned:      {describe(tuned)}")
    print(f"as shipped: {describe(shipped)}")
    print(
        f"faster by:  product {tuned['product'] / shipped['product']:.2f}, "
        f"training step {shipped['step'] / tuned['step']:.2f}"
    )
    cpuinfo = Path("/proc/cpuinfo")
    helped = cpuinfo.exists() and mkl_needs_help(cpuinfo.read_text())
    name = "tuned runtime: training step of a GRU 300 -> 1024, batch 128, 20 words"
    report(
        name,
        tuned["step"],
        shipped["step"],
        goal=2.0 if helped else 0.75 * choose_threads(),
        unit="s",
        higher_is_better=False,
    )


def measure(side: str) -> None:
    """Print the measurements of a side as JSON: GFLOP/s of the product and seconds of the step."""
    if side == "tuned":
        from engine.runtime import prepare_runtime

        prepare_runtime("cpu", threads=0, seed=0, deterministic=True)
    import paddle

    paddle.device.set_device("cpu")
    left, right = paddle.rand([SIZE, SIZE]), paddle.rand([SIZE, SIZE])
    product = min(seconds(lambda: left @ right) for _ in range(10))

    gru = paddle.nn.GRU(WORD_DIM, HIDDEN)
    words = paddle.rand([BATCH, WORDS, WORD_DIM])

    def step() -> None:
        outputs, _ = gru(words)
        outputs.mean().backward()
        gru.clear_gradients()

    step()
    print(
        json.dumps(
            {
                "product": 2 * SIZE**3 / product / 1e9,
                "step": statistics.median(seconds(step) for _ in range(3)),
            }
        )
    )


def median_of(results: list[dict], key: str) -> float:
    return statistics.median(result[key] for result in results)


def describe(result: dict) -> str:
    return f"product {result['product']:.0f} GFLOP/s, training step {result['step']:.2f} s"


if __name__ == "__main__":
    main()
