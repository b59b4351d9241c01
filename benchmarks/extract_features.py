"""Extracting features of 2,000 photos with MobileNetV2, images/s: ours against our code before (79f190b).

The whole command is measured, from its start to the written file, by turns, and so is its processor time.
Before, a thread read pictures ahead and all cores shared each picture of a batch of 32 in the network; now
each core takes pictures of its own through reading and network, whose wide maps stay in its cache. In float32
both sides make the same features but for rounding; bfloat16 is measured where the processor has it, and its
differences are printed. Photos are drawn at 500 x 375 pixels, as in COCO and Flickr30k, and 250 at
4000 x 3000, as phones take them. What limits the speed is printed: decoding alone and the network alone, on
all cores.

The network is `data/models/mnv2.onnx` in `../shared` (or RETRIEVAL_SHARED). Preparing 10,000 captions with
all checks is measured beside it, against a limit of 2 s.
"""

from _builds import EARLIER, earlier_build
from _photos import write_pictures
from _race import BFLOAT16, FLOAT32, can_race
from _report import ROOT, TUNING, report, seconds

import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from config.files.networks import read_backbone
from datasets.features.formats import open_features
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.prefetch import prefetched
from datasets.preparation.checks import check_captions, check_repeated
from datasets.preparation.columns import Columns
from datasets.preparation.near_duplicates import BITS
from datasets.preparation.photos import Seen
from datasets.preparation.problems import Problems
from datasets.preparation.splits import split_photos
from datasets.preparation.tables import read_table
from engine.extraction.build import build_network, build_transform, normalization_of
from engine.runtime import choose_threads

SIZES = {"500 x 375": (500, 375, 2000), "4000 x 3000": (4000, 3000, 250)}  # width, height, photos
BACKBONE = ROOT / "configs" / "backbones" / "mobilenetv2.yaml"
BATCH, ROUNDS = 32, 3
CAPTIONS, PER_PHOTO = 10_000, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_table(folder)
        report(
            f"checks and splits of {CAPTIONS:,} captions, against a limit",
            seconds(partial(check_table, folder)),
            2,
            goal=1,
            unit="s",
            higher_is_better=False,
        )
        model = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared")) / "data/models/mnv2.onnx"
        if not model.is_file():
            print(f"{model} is missing: extraction is not measured")
            return
        with earlier_build(folder / "build") as build:
            for name, (width, height, count) in SIZES.items():
                write_pictures(folder / name, width, height, count)
                compare(name, folder / name, count, model, build, folder)


def compare(name: str, photos: Path, count: int, model: Path, build: Path, folder: Path) -> None:
    """Measure all sides in turns on the photos in a folder, report, and print what limits the speed."""
    precisions = [each for each in (FLOAT32, BFLOAT16) if can_race((each,), f"extraction in {each}")]
    sides = {"before": (build, []), **{each: (ROOT, ["--precision", each]) for each in precisions}}
    turns = [
        {
            side: extract(side, code, photos, model, folder / f"{side}.h5", *more)
            for side, (code, more) in sides.items()
        }
        for _ in range(ROUNDS)
    ]
    compare_features({side: folder / f"{side}.h5" for side in sides})
    for number, what in enumerate(("", ", of a second of one core")):
        rates = {side: count / statistics.median(turn[side][number] for turn in turns) for side in sides}
        for precision in precisions:
            report(
                f"extracting {count:,} photos of {name}, MobileNetV2 in {precision}{what}, against {EARLIER}",
                rates[precision],
                rates["before"],
                goal=2,
                unit="images/s",
                higher_is_better=True,
            )
    for part, rate in limits(photos, model, precisions).items():
        print(f"{name}, {part} alone on {choose_threads()} threads: {rate:.0f} images/s", flush=True)


def compare_features(files: dict[str, Path]) -> None:
    """Print how far features are from those before; raise RuntimeError if that is more than rounding."""
    stores = {side: open_features(file) for side, file in files.items()}
    found = {side: store.gather(np.arange(len(store)), pool=False) for side, store in stores.items()}
    for side, features in found.items():
        difference = np.abs(features - found["before"]).max()
        print(
            f"{side}: largest difference {difference:.2g} of features of up to {features.max():.2g}",
            flush=True,
        )
        if side == FLOAT32 and difference > 1e-4 * features.max():
            raise RuntimeError("both sides made other features: there is nothing to compare")


def extract(
    side: str, code: Path, photos: Path, model: Path, output: Path, *more: str
) -> tuple[float, float]:
    """Run the tool of one side; return its seconds, and those of all cores together, and print them."""
    command = [sys.executable, str(code / "tools" / "extract_features.py"), "--images", str(photos)]
    command += [
        "--backbone",
        str(BACKBONE),
        "--model",
        str(model),
        "--out",
        str(output),
        "--overwrite",
        *more,
    ]
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = seconds(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{side}: {taken:.1f} s, {of_cores:.1f} s of the cores", flush=True)
    return taken, of_cores


def limits(photos: Path, model: Path, precisions: list[str]) -> dict[str, float]:
    """Return the images/s of decoding without a network, and of the network on pictures that are there."""
    backbone = read_backbone(BACKBONE)
    files = PictureFiles(photos)
    names = files.names[: 8 * BATCH]
    loader = PictureLoader(
        files, names, build_transform(backbone, False), normalization_of(backbone), Unreadables(refuse=True)
    )
    batches = [range(start, min(start + BATCH, len(names))) for start in range(0, len(names), BATCH)]
    images = loader.read(batches[0]).images[:, 0]
    parts = {"decoding": loader.read}
    for precision in precisions:
        network = build_network(replace(backbone, model=str(model)), False, precision)
        network(images[:1])
        parts[f"the network in {precision}"] = lambda batch, run=network: run(images[: len(batch)])
    return {
        part: len(names) / seconds(lambda work=work: list(prefetched(work, batches, choose_threads())))
        for part, work in parts.items()
    }


def check_table(folder: Path) -> None:
    """Read a table of captions, check and split it, as tools/prepare_data.py does after looking at photos."""
    problems = Problems()
    rows = read_table(folder / "captions.csv", Columns(), problems).rows
    files = PictureFiles(folder / "photos")
    captioned = check_captions(rows, files, files.names, problems)
    random = np.random.default_rng(0)
    seen = {name: Seen((1, 1), random.random(BITS) < 0.5) for name in files.names}
    split, _ = split_photos(list(captioned.captions), seen, captioned.split, (0.1, 0.1), 1, problems)
    check_repeated(captioned.captions, split, problems)


def write_table(folder: Path) -> None:
    """Write a table of captions of random words, and an empty file for each photo."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    rows = []
    for number in range(CAPTIONS // PER_PHOTO):
        (folder / "photos" / f"{number}.jpg").touch()
        words = random.integers(5000, size=(PER_PHOTO, 12))
        rows += [(f"{number}.jpg", " ".join(f"word{word}" for word in line)) for line in words]
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])


if __name__ == "__main__":
    main()
