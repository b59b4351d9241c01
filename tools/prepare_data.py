"""Make a data set of your own photos and captions: check, split, extract features, write the task file.

    python tools/prepare_data.py --images photos --captions captions.csv --out data/mine
    python tools/prepare_data.py --images photos --captions captions.csv --out data/mine --add
    python tools/prepare_data.py --images photos --out data/gallery

Captions are CSV, TSV, JSON lines, plain JSON, COCO's or Karpathy's JSON, Flickr's token file or results.csv.
Everything is checked first, and all problems are listed together; nothing is prepared until they are mended,
or left out with --leave_out. Without captions, a gallery to search is prepared. After a stop, the same
command goes on where it was.
"""

import argparse
import contextlib
import hashlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import _init_paths  # noqa: F401
from _command import folder_name, leave_on_sigterm, run
from _extraction import add_precision, describe_network, workers_of, write_features
from _prepared_folder import CAPTIONS, FEATURES, LOOKED, TASK, Earlier, open_folder, write_state, write_task
from _progress import progress_display

import numpy as np

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole
from config.files.networks import Backbone, read_backbone
from datasets.conversion.extraction_folder import ExtractionFolder
from datasets.conversion.joined import JoinedFeatures
from datasets.features.formats import open_features
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.preparation.checks import Captioned, check_captions, check_photos, check_repeated
from datasets.preparation.columns import Columns
from datasets.preparation.photos import look_at_photos, write_record
from datasets.preparation.problems import Problems
from datasets.preparation.splits import split_photos
from datasets.preparation.tables import Row, read_table
from engine.extraction.build import build_pooled, build_transform, choose_precision, normalization_of
from engine.extraction.extractors import PooledExtractor, extract_all
from engine.extraction.recorded import record_of_backbone, record_of_precision
from engine.runtime import choose_threads, flush_subnormals, keep_freed_memory, prepare_runtime

_BACKBONE = Path(__file__).resolve().parent.parent / "configs" / "backbones" / "efficientnet_lite2.yaml"
_BATCH = 32
_TRIED = 8  # photos with which the time of all is estimated
_SHARE_HELP = "share of the photos for dev and for test (default 0.1 0.1)"


def main() -> None:
    """Parse the command line, check everything, and prepare."""
    arguments = parse_arguments()
    leave_on_sigterm()
    out: Path = arguments.out
    backbone = read_backbone(arguments.backbone)
    precision = precision_of(arguments, backbone)
    network = describe_network(backbone) | record_of_precision(precision)
    earlier = open_folder(out, arguments.images, network, arguments.add, arguments.overwrite)
    files = PictureFiles(arguments.images)
    problems = Problems()
    rows = read_rows(arguments, files, earlier, problems)
    with progress_display() as show:
        seen = look_at_photos(files, out / LOOKED, choose_threads(), show)
    usable = check_photos(files, seen, problems)
    captioned, split = Captioned({}, {}), {}
    if arguments.captions:
        captioned = check_captions(rows, files, usable, problems)
    if captioned.captions:
        before = earlier.splits if earlier else {}
        given = {name: own or before.get(name, "") for name, own in captioned.split.items()}
        try:
            split, groups = split_photos(
                list(captioned.captions), seen, given, tuple(arguments.shares), arguments.seed, problems
            )
        except UserError:
            tell_problems(problems, arguments)  # they may be why
            raise
        check_repeated(captioned.captions, split, problems)
        what = "group of photos stays" if groups == 1 else "groups of photos stay"
        print(f"near-duplicates: {groups:,} {what} together")
    tell_problems(problems, arguments)
    if arguments.captions and not captioned.captions:
        raise UserError(f"{arguments.captions}: no caption is left of {len(rows):,}")
    fingerprints = {name: list(seen[name].fingerprint) for name in usable}
    with extracted(arguments, backbone, network, precision, files, fingerprints, earlier) as dim:
        if split:
            for line in write_task(out, arguments.images, captioned, split, dim):
                print(line)
        write_record(out / LOOKED, seen)
        write_state(out, Earlier(str(arguments.images.resolve()), network, fingerprints, split))
    tell_next(out, captioned)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    add = parser.add_argument
    add("--images", metavar="DIR", type=Path, required=True, help="folder of photos, or a zip file of one")
    add("--captions", metavar="F", type=Path, help="table of captions; none: a gallery without captions")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    add("--add", action="store_true", help="take new photos and captions into OUT; features stay as they are")
    add("--overwrite", action="store_true", help="replace what was prepared in OUT")
    add("--leave_out", action="store_true", help="go on without what has a problem")
    add("--report", metavar="F", type=Path, help="write all problems to this file")
    add("--image_column", metavar="C", default="", help="column or key with the pictures' names")
    add("--caption_column", metavar="C", nargs="+", default=[], help="columns or keys with captions")
    add("--split_column", metavar="C", default="", help="column or key with train, dev or test")
    add("--shares", metavar="P", type=share, nargs=2, default=[0.1, 0.1], help=_SHARE_HELP)
    add("--seed", metavar="N", type=int, default=123, help="seed of the split (default %(default)s)")
    add(
        "--backbone",
        metavar="F",
        default=str(_BACKBONE),
        help="YAML file of the network that sees the photos",
    )
    add_precision(parser)
    arguments = parser.parse_args()
    if arguments.add and arguments.overwrite:
        parser.error("expected one of --add and --overwrite, got both")
    if arguments.seed < 0:
        parser.error(f"--seed: expected 0 or more, got {arguments.seed}")
    if sum(arguments.shares) > 0.8:
        parser.error("--shares: expected 0.8 together at most, so that there is something to train on")
    return arguments


def precision_of(arguments: argparse.Namespace, backbone: Backbone) -> str:
    """Return float32 or bfloat16, as --precision asks for it; raise UserError where it cannot be had."""
    if arguments.precision == "float32":
        return arguments.precision
    start_paddle(backbone)
    precision = choose_precision(arguments.precision, "--precision", backbone, as_map=False)
    if precision != arguments.precision:
        print(f"--precision {arguments.precision}: {precision}", flush=True)
    return precision


def start_paddle(backbone: Backbone) -> None:
    """Prepare Paddle, once, if it reads the backbone's weights."""
    if backbone.weights and "paddle" not in sys.modules:
        prepare_runtime(threads=choose_threads())


def share(text: str) -> float:
    """Return a command-line argument as a number above 0 and below 1."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text!r}")


def read_rows(
    arguments: argparse.Namespace, files: PictureFiles, earlier: Earlier | None, problems: Problems
) -> list[Row]:
    """Return the captions of the table and, of pictures that it does not name, those prepared earlier."""
    if not arguments.captions:
        if earlier and earlier.splits:
            raise UserError(f"{arguments.out}: prepared with captions: give --captions F with --add")
        return []
    wanted = Columns(arguments.image_column, tuple(arguments.caption_column), arguments.split_column)
    table = read_table(arguments.captions, wanted, problems)
    print(f"{arguments.captions}: {len(table.rows):,} captions; {table.described}")
    rows = table.rows
    if earlier and earlier.splits:
        named = {fit for name in {row.picture for row in rows} for fit in files.fitting(name)}
        before = read_table(arguments.out / CAPTIONS, Columns(), problems).rows
        # Their splits stand in the earlier state; a table without splits may stay one.
        with_splits = any(row.split for row in rows)
        rows = rows + [
            Row(f"{CAPTIONS} {row.place}", row.picture, row.caption, row.split if with_splits else "")
            for row in before
            if row.picture not in named
        ]
    return rows


def tell_problems(problems: Problems, arguments: argparse.Namespace) -> None:
    """Print the problems, and write them all to --report; raise UserError if they stop the preparation."""
    for line in problems.list_first():
        print(line)
    if arguments.report:
        write_whole(arguments.report, "".join(f"{line}\n" for line in problems.list_all()))
    if problems.stops and not arguments.leave_out:
        rest = "" if arguments.report else "; --report F writes them all to a file"
        raise UserError(
            f"{problems.stops:,} problems, listed above{rest}: mend them, or go on without what they concern "
            "with --leave_out"
        )


@contextlib.contextmanager
def extracted(
    arguments: argparse.Namespace,
    backbone: Backbone,
    network: dict,
    precision: str,
    files: PictureFiles,
    fingerprints: dict[str, list[int]],
    earlier: Earlier | None,
) -> Iterator[int]:
    """Write the features of all photos, and yield their width; the extraction is over after the block.

    The features of photos that `earlier` has, and whose files are unchanged, are kept.
    """
    target = arguments.out / FEATURES
    known = earlier.photos if earlier else {}
    todo = [name for name, mark in fingerprints.items() if known.get(name) != mark]
    kept = [name for name in fingerprints if known.get(name) == fingerprints[name]]
    if gone := sorted(known.keys() - fingerprints.keys()):
        print(f"photos that are not there any more: {len(gone):,}, such as {gone[0]}")
    if not todo and len(kept) == len(known):
        yield open_features(target).dim
        return
    record = record_of_backbone(backbone, precision) | {"backbone": network}
    marks = repr([(name, fingerprints[name]) for name in todo])
    job = {"pictures": hashlib.sha256(marks.encode()).hexdigest(), **record}
    folder = ExtractionFolder(target, job, arguments.overwrite)
    with contextlib.closing(folder):
        if folder.done:
            print(f"{folder.path}: going on after {folder.done:,} of {len(todo):,} photos", flush=True)
        if folder.done < len(todo):
            extract(backbone, precision, files, todo, folder)
        parts = [(folder.store(), np.arange(len(folder.entries)))] if todo else []
        if kept:
            before = open_features(target)
            parts.insert(0, (before, np.array([before.row_of[name] for name in kept])))
        source = JoinedFeatures(parts) if kept else parts[0][0]
        print(write_features(source, target, "float32", record)[0])
        yield source.dim
        folder.remove()


def extract(
    backbone: Backbone, precision: str, files: PictureFiles, names: list[str], folder: ExtractionFolder
) -> None:
    """Extract the features of the photos that `folder` does not hold yet; say first what that will take."""
    keep_freed_memory()
    flush_subnormals()
    start_paddle(backbone)
    loader = PictureLoader(
        files,
        names,
        build_transform(backbone, False),
        normalization_of(backbone),
        Unreadables(refuse=True),  # those that cannot be read were found before
    )
    extractor = build_pooled(loader, backbone, precision)
    workers = workers_of(extractor, None)
    seconds, width = try_some(extractor, names)
    seconds /= max(1, workers) if extractor.in_threads else 1
    left = len(names) - folder.done
    needed = 2 * 4 * width * len(names)  # bytes of the extraction and of the file that it becomes
    print(
        f"extracting: {left:,} photos, about {seconds * left / 60:.1f} minutes; "
        f"{needed / 1e6:,.1f} MB on the disk, of which {needed / 2e6:,.1f} stay",
        flush=True,
    )
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise UserError(
            f"{folder.path}: {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} are needed: make room"
        )
    with progress_display() as show:
        extract_all(extractor, names, folder, _BATCH, workers, show)


def try_some(extractor: PooledExtractor, names: list[str]) -> tuple[float, int]:
    """Return the seconds that a photo takes, from some of them, and the width of its features."""
    chosen = np.linspace(0, len(names) - 1, min(_TRIED, len(names))).astype(int).tolist()
    extractor.extract([names[chosen[0]]], extractor.prepare(chosen[:1]))  # warm-up
    started = time.perf_counter()
    found = extractor.extract([names[index] for index in chosen], extractor.prepare(chosen))
    return (time.perf_counter() - started) / len(chosen), found[0].vectors.shape[1]


def tell_next(out: Path, captioned: Captioned) -> None:
    """Print the commands that use what was prepared."""
    run_folder = f"out/{folder_name(out.name, 'photos')}" if captioned.captions else "RUN"
    sentence = next(iter(captioned.captions.values()), ["a sentence"])[0]
    if captioned.captions:
        task = shlex.quote(str(out / TASK))
        print(f"train:  python tools/train_retrieval.py --cfg_file {task}")
        print(f"floor:  python tools/measure_floor.py --cfg_file {task}")
    query = f"--gallery {shlex.quote(str(out / FEATURES))} --text {shlex.quote(sentence)}"
    print(f"search: python tools/search_retrieval.py --cfg_file {run_folder} {query}")


if __name__ == "__main__":
    run(main, "the same command goes on where it was")
