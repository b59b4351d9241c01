"""Whether half an hour of training on 1,000,000 pairs drifts: memory, step time, handles, size of the log.

    python benchmarks/counts/long_training.py path/to/folder [--minutes 30] [--images 200000]

Draws images as features of 16 numbers, with five captions each of words that the features decide, trains a
small VSE++ on them by the command line with one thread, and looks at the process through /proc (Linux) every
ten seconds. Validations and checkpoints take place as in any run. Step time is the process's own processor
time, since others may use the machine. In the end it stops the run as Ctrl-C would.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WIDTH, WORDS, CAPTIONS, EVERY, ROWS = 16, 2000, 5, 10.0, 10
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where data and run go")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to watch")
    parser.add_argument("--images", type=int, default=200_000, help="images of the training split")
    args = parser.parse_args()
    data = args.folder / "data"
    for split, images, seed in (("train", args.images, 0), ("dev", 500, 1)):
        if not (data / f"{split}_ims.npy").exists():
            draw(data, split, images, seed)
    samples = watch(args.folder, data, args.minutes * 60)
    show(samples, steps_of(args.folder / "run" / "log.jsonl"))


def draw(data: Path, split: str, images: int, seed: int) -> None:
    """Write features [images,16], and captions of five to eleven words that lie near the image."""
    data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    words = np.random.default_rng(99).normal(size=(WORDS, WIDTH)).astype(np.float32)
    features = random.normal(size=(images, WIDTH)).astype(np.float32)
    with (data / f"{split}_caps.txt").open("w") as captions:
        for begin in range(0, images, 1000):
            near = np.argpartition(-features[begin : begin + 1000] @ words.T, 20)[:, :20]
            for row in near:
                for length in random.integers(5, 12, CAPTIONS):
                    captions.write(" ".join(f"w{word}" for word in random.choice(row, length)) + "\n")
    (data / f"{split}_ids.txt").write_text("".join(f"{split}_{row}\n" for row in range(images)))
    np.save(data / f"{split}_ims.npy", features)


def watch(folder: Path, data: Path, seconds: float) -> list[dict]:
    """Train for some time; return what was seen of the process."""
    keys = {
        **{"DATASET.DATA_DIR": data, "DATASET.NAME": "generated", "INPUT.IMG_FEATURE_DIM": WIDTH},
        **{"INPUT.TOKENIZER": "whitespace", "MODEL.EMBED_DIM": 32, "MODEL.WORD_DIM": 16},
        **{"OPTIMIZATION.LR": 1e-3, "OPTIMIZATION.EPOCHS": 1000, "RUNTIME.THREADS": 1},
        **{"RUNTIME.DEVICE": "cpu", "MONITOR.EVAL_STEP": 5000, "OUTPUT.SAVE_STEP": 1000},
        **{"OUTPUT.CHECKPOINT_DIR": folder, "OUTPUT.SAVE_NAME": "run"},
    }
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py"]
    command += ["--cfg_file", ROOT / "configs" / "base" / "vsepp.yaml", "--overwrite"]
    command += [f"{key}={value}" for key, value in keys.items()]
    samples, log = [], folder / "run" / "log.jsonl"
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        began = time.monotonic()
        try:
            while time.monotonic() - began < seconds and process.poll() is None:
                time.sleep(EVERY)
                if log.exists() and process.poll() is None:
                    samples.append(
                        seen(process.pid, folder / "run") | {"minute": (time.monotonic() - began) / 60}
                    )
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(120)
    print(f"stopped with exit code {code} after {samples[-1]['minute']:.1f} minutes")
    return samples


def seen(pid: int, run: Path) -> dict:
    """Return what /proc and the run's folder say at this moment; sizes in MB (log: bytes)."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    times = (proc / "stat").read_text().rpartition(")")[2].split()
    curves = sum(file.stat().st_size for file in (run / "curves").rglob("*") if file.is_file())
    return {
        "time": time.time(),
        "anonymous": int(status["RssAnon"].split()[0]) / 1024,
        "mapped": int(status["RssFile"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "handles": len(os.listdir(proc / "fd")),
        "seconds": (int(times[11]) + int(times[12])) / TICK,
        "log": (run / "log.jsonl").stat().st_size,
        "curves": curves,
    }


def steps_of(log: Path) -> np.ndarray:
    """Return the time and the number of each logged training step, [2,N]."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return np.array([(line["time"], line["step"]) for line in lines if line["event"] == "train"]).T


def show(samples: list[dict], steps: np.ndarray) -> None:
    """Print ten rows, each of a tenth of the time."""
    columns = ("minute", "step", "ms a step", "anonymous, MB", "mapped, MB", "handles", "threads")
    columns += ("log, bytes a step", "curves, bytes a step")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for sample in samples:
        sample["step"] = float(np.interp(sample["time"], *steps))
    ends = np.linspace(0, len(samples) - 1, ROWS + 1).round().astype(int)
    for begin, end in zip(ends[:-1], ends[1:], strict=True):
        first, last = samples[begin], samples[end]
        done = max(last["step"] - first["step"], 1)
        rates = [(last[key] - first[key]) / done for key in ("seconds", "log", "curves")]
        print(
            f"| {last['minute']:.0f} | {last['step']:.0f} | {1000 * rates[0]:.2f} | {last['anonymous']:.0f} "
            f"| {last['mapped']:.0f} | {last['handles']} | {last['threads']} "
            f"| {rates[1]:.1f} | {rates[2]:.1f} |"
        )


if __name__ == "__main__":
    main()
