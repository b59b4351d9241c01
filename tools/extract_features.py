"""Extract features from pictures into a file: vectors, grid regions, or detected regions with tags.

    python tools/extract_features.py --images photos --backbone configs/backbones/mobilenetv2.yaml --out a.h5
    python tools/extract_features.py --images p.zip --backbone configs/backbones/vgg19.yaml --ten_crop \\
        --out a.h5
    python tools/extract_features.py --images photos --backbone configs/backbones/mobilenetv2.yaml --grid 7 \\
        --captions captions.csv --out a.h5
    python tools/extract_features.py --images photos --backbone configs/backbones/mobilenetv2.yaml \\
        --detector configs/backbones/yolox_nano.yaml --out a.h5

A picture's id is its path in the folder, or the name that the caption file gives it. Unreadable pictures are
left out, and their names and number are printed. An unfinished extraction is in OUT.extraction: after Ctrl-C,
a kill or a full disk, the same command resumes there, and the file has the same bytes as without the stop.
Under python -m paddle.distributed.launch, processes share the pictures, and the bytes are the same.
"""

import argparse
import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run
from _extraction import add_precision, describe_network, workers_of, write_features
from _progress import progress_display

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.progress import no_progress
from config.files.networks import Backbone, Detector, read_backbone, read_detector
from datasets.conversion.extraction_folder import ExtractionFolder
from datasets.conversion.precision import STORED
from datasets.conversion.writer import refuse_existing_target
from datasets.conversion.targets import check_format
from datasets.pictures.lists import read_captioned
from datasets.pictures.picture import Unreadables, describe_unreadable
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from engine.extraction.build import (
    build_grid,
    build_pooled,
    build_regions,
    build_transform,
    choose_precision,
    normalization_of,
)
from engine.extraction.extractors import FeatureExtractor, extract_all
from engine.extraction.recorded import record_of, record_of_precision
from engine.runtime import choose_threads, flush_subnormals, keep_freed_memory, prepare_runtime

_PICTURES_WITH_REGIONS = 8  # in a batch: each picture stays decoded in memory until its regions are cut
_UNREADABLE = "leave out pictures that cannot be read, or stop at the first (default skip)"
_OVERWRITE = "replace OUT, and a stopped extraction of other pictures or settings"
_REGIONS = "smallest and largest number of regions of a picture (default 10 36)"
_WORKERS = "threads that read pictures and run ONNX networks (default: the cores; with KIND: paddle 1)"
_MIN_SCORE = "lowest score of the regions above that smallest number (default 0.1)"


def main() -> None:
    """Parse the command line, extract the features, and write the file."""
    arguments = parse_arguments()
    leave_on_sigterm()
    output = arguments.out
    check_format(output)
    refuse_existing_target(output, arguments.overwrite, "--out")
    backbone, detector = read_networks(arguments)
    files = PictureFiles(arguments.images)
    ids, names = choose_pictures(files, arguments.captions, arguments.split)
    threads = choose_threads()
    keep_freed_memory()
    flush_subnormals()
    launched = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    if launched and arguments.precision == "auto":
        raise UserError(
            "--precision: expected float32 or bfloat16 for several processes, whose processors may differ, "
            "got auto"
        )
    if launched or backbone.weights:
        prepare_runtime(threads=threads)
    loader = PictureLoader(
        files,
        names,
        build_transform(backbone, arguments.ten_crop),
        normalization_of(backbone),
        Unreadables(refuse=arguments.unreadable == "refuse"),
    )
    batch_size = _PICTURES_WITH_REGIONS if detector else arguments.batch_size
    precision = choose_precision(arguments.precision, "--precision", backbone, bool(arguments.grid))
    job = describe_job(arguments, backbone, detector, ids, names, batch_size) | record_of_precision(precision)
    if arguments.precision != precision:
        print(f"--precision {arguments.precision}: {precision}", flush=True)
    is_first, extract = join_processes(launched)
    with contextlib.ExitStack() as opened:
        folder = None
        if is_first:
            folder = ExtractionFolder(output, job, arguments.overwrite)
            opened.enter_context(contextlib.closing(folder))
            if folder.done:
                print(f"{folder.path}: going on after {folder.done} of {len(ids)} pictures", flush=True)
        if launched or folder.done < len(ids):
            extractor = build_extractor(arguments, loader, backbone, detector, precision)
            with progress_display() if folder else contextlib.nullcontext(no_progress) as show:
                extract(extractor, ids, folder, batch_size, workers_of(extractor, arguments.workers), show)
        if folder:
            write_store(folder, output, arguments.dtype, record_of(job))
            for line in describe_unreadable(folder.problems):
                print(line)
            folder.remove()


def join_processes(launched: bool) -> tuple[bool, Callable[..., None]]:
    """Connect the processes of a launched job; return whether this is the first, and the extraction."""
    if not launched:
        return True, extract_all
    from engine.parallel.processes import is_main, start_process_group
    from engine.extraction.shared import extract_together

    start_process_group()
    return is_main(), extract_together


def read_networks(arguments: argparse.Namespace) -> tuple[Backbone, Detector | None]:
    """Return the backbone and the detector, if any, that the YAML files and the command line describe."""
    backbone = read_backbone(arguments.backbone)
    if arguments.model and (backbone.weights or backbone.kind == "paddle"):
        backbone = replace(backbone, weights=arguments.model)
    elif arguments.model:
        backbone = replace(backbone, model=arguments.model)
    detector = read_detector(arguments.detector) if arguments.detector else None
    if detector and arguments.detector_model:
        detector = replace(detector, model=arguments.detector_model)
    return backbone, detector


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; raise `UserError` for options that do not go together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    add_input_arguments(parser)
    add_output_arguments(parser)
    arguments = parser.parse_args()
    ways = [arguments.ten_crop, arguments.grid is not None, arguments.detector is not None]
    if sum(ways) > 1:
        parser.error("expected one of --ten_crop, --grid and --detector, got several")
    if arguments.regions[0] > arguments.regions[1]:
        parser.error("--regions: expected the fewest, then the most")
    if arguments.detector_model and not arguments.detector:
        parser.error("--detector_model: expected --detector F with it")
    if arguments.split and not arguments.captions:
        parser.error("--split: expected --captions F with it")
    return arguments


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose pictures and networks."""
    add = parser.add_argument
    add("--images", metavar="DIR", type=Path, required=True, help="folder of pictures, or a zip file of one")
    add("--captions", metavar="F", type=Path, help="caption file (.csv, .json) whose pictures are taken")
    add("--split", metavar="S", nargs="+", default=[], help="splits of --captions to take (default: all)")
    add("--unreadable", choices=("skip", "refuse"), default="skip", help=_UNREADABLE)
    add("--backbone", metavar="F", required=True, help="YAML file of the network, as in configs/backbones")
    add("--model", metavar="F", help="the network's own file, instead of MODEL (paddle: WEIGHTS) in the YAML")
    add("--detector", metavar="F", help="YAML file of a detector; its regions and tags are taken")
    add("--detector_model", metavar="F", help="the detector's own file, instead of MODEL in the YAML")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the features and the file to write."""
    add = parser.add_argument
    add("--out", metavar="F", type=Path, required=True, help="file to write: .h5 or .npy (docs/data.md)")
    add("--overwrite", action="store_true", help=_OVERWRITE)
    add("--dtype", choices=STORED, default="float32", help="type of the stored values (default %(default)s)")
    add("--ten_crop", action="store_true", help="average corners, centre and their mirrors, as VSE++ does")
    add("--grid", metavar="N", type=positive, help="N x N regions, pooled from the last feature map")
    add("--regions", metavar="N", type=positive, nargs=2, default=[10, 36], help=_REGIONS)
    add("--min_score", metavar="P", type=probability, default=0.1, help=_MIN_SCORE)
    add("--batch_size", metavar="N", type=positive, default=32, help="pictures in a batch (default 32)")
    add_precision(parser)
    add("--workers", metavar="N", type=natural, help=_WORKERS)


def positive(text: str) -> int:
    """Return a command-line argument as an integer of at least 1."""
    if natural(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    """Return a command-line argument as an integer of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def probability(text: str) -> float:
    """Return a command-line argument as a number from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")


def choose_pictures(
    files: PictureFiles, captions: Path | None, splits: list[str]
) -> tuple[list[str], list[str]]:
    """Return the ids of the pictures to take, and the names of their files.

    Raises UserError for an id that a text file of ids cannot hold.
    """
    if captions is None:
        ids = names = files.names
    else:
        listing, names = read_captioned(files, captions, splits)
        ids = next(iter(listing.names.values()))
    for image_id in ids:
        if image_id != image_id.strip() or not image_id.isprintable():
            raise UserError(
                f"{files.path}: {image_id!r}: a name with blanks at its ends, a line break or bytes that are "
                "not UTF-8 cannot be an id: rename the picture"
            )
    return ids, names


def describe_job(
    arguments: argparse.Namespace,
    backbone: Backbone,
    detector: Detector | None,
    ids: list[str],
    names: list[str],
    batch_size: int,
) -> dict[str, object]:
    """Return everything that must be unchanged for a stopped extraction to be resumed."""
    return {
        "pictures": hashlib.sha256(repr((ids, names)).encode()).hexdigest(),
        "backbone": describe_network(backbone),
        "detector": describe_network(detector) if detector else None,
        "options": [arguments.ten_crop, arguments.grid, *arguments.regions, arguments.min_score, batch_size],
    }


def build_extractor(
    arguments: argparse.Namespace,
    loader: PictureLoader,
    backbone: Backbone,
    detector: Detector | None,
    precision: str,
) -> FeatureExtractor:
    """Return the extractor that the command line asks for: of detected regions, of a grid, or of vectors."""
    if detector:
        fewest, most = arguments.regions
        return build_regions(loader, backbone, detector, arguments.min_score, fewest, most, precision)
    if arguments.grid:
        return build_grid(loader, backbone, arguments.grid, precision)
    return build_pooled(loader, backbone, precision)


def write_store(folder: ExtractionFolder, output: Path, dtype: str, record: dict) -> None:
    """Write the extracted features and their `record` to `output`, compare them, and print a summary."""
    summary, deviation = write_features(folder.store(), output, dtype, record)
    print(summary)
    print(f"compared: {deviation.describe()}")


if __name__ == "__main__":
    run(main)
