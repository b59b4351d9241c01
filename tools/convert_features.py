"""Convert image features from any of the file formats of docs/data.md to HDF5 or .npy.

    python tools/convert_features.py features.tsv features.h5 --dtype float16
    python tools/convert_features.py train2014_obj36.tsv.gz train2014.h5
    python tools/convert_features.py data/f30k/train_ims.npy data/f30k/train.h5 --dtype int8
    python tools/convert_features.py data/f30k/train.h5 data/mine/train_ims.npy

INPUT is .npy, .h5, or the .tsv of VinVL, bottom-up attention or LXMERT (also .tsv.gz). OUTPUT ends with .h5
or, if all images have the same number of regions, with .npy. Ids, boxes, image sizes and tags are copied as
far as INPUT and the files beside it have them; for .npy they become X_ids.txt, X_boxes.npy, X_sizes.npy and
X_tags.txt beside X_ims.npy.

An unfinished conversion is in OUTPUT.partial. After Ctrl-C, a kill or a full disk, the same command resumes
there. At the end OUTPUT is read again and compared with INPUT.
"""

import argparse
from pathlib import Path

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run
from _progress import progress_display

import numpy as np

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from datasets.text_files import read_lines, refuse_duplicates
from datasets.conversion.precision import STORED
from datasets.conversion.contents import Contents, read_contents
from datasets.conversion.writer import FeatureDraft, refuse_existing_target
from datasets.conversion.targets import file_names
from datasets.features.store import FeatureStore
from datasets.features.formats import open_features
from datasets.features.tsv import TsvFeatures


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("input", metavar="INPUT", type=Path, help="file of features to read")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="file to write: .h5 or .npy")
    parser.add_argument(
        "--dtype",
        choices=STORED,
        help="type of the stored values (default: that of INPUT); float16 takes half the space of float32, "
        "int8 with a scale for each vector (.h5 only) a quarter",
    )
    parser.add_argument(
        "--ids",
        metavar="FILE",
        type=Path,
        help="text file of image ids, one a row (default: those in INPUT, or X_ids.txt beside a .npy)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUTPUT and, for .npy, the files beside it"
    )
    arguments = parser.parse_args()
    leave_on_sigterm()
    refuse_source(arguments.input, arguments.output)
    refuse_existing_target(arguments.output, arguments.overwrite, "OUTPUT")
    gzipped = arguments.input.suffix == ".gz"
    source = TsvFeatures(arguments.input) if gzipped else open_features(arguments.input)
    ids = read_ids(arguments.ids, source) if arguments.ids else None
    convert(source, arguments.output, ids, arguments.dtype or stored_type(source, arguments.output))


def convert(source: FeatureStore, output: Path, ids: list[str] | None, dtype: str) -> None:
    """Convert the open file `source`, compare the result with it, and print a summary."""
    with progress_display() as show:
        contents = read_contents(source, ids, show)
        draft = FeatureDraft(output, source, contents, dtype)
        if draft.images_done:
            print(f"{draft.folder}: going on after {draft.images_done} of {len(source)} images", flush=True)
        draft.write(show)
        deviation = draft.compare(show)
    draft.finish()
    print(f"{output}: {len(source)} images, {source.describe()}, {dtype}; {contents.describe()}")
    print(f"size: {describe_size(source, contents, dtype)}")
    print(f"compared: {deviation.describe()}")


def read_ids(path: Path, source: FeatureStore) -> list[str]:
    """Return the ids in a file; raise `UserError` unless each row has one and no id occurs twice."""
    ids = read_lines(path, "image id")
    if len(ids) != len(source):
        raise UserError(
            f"{path}: {len(ids)} image ids, expected one for each of the {len(source)} rows of "
            f"{source.path}: mend the file"
        )
    refuse_duplicates(path, ids)
    return ids


def stored_type(source: FeatureStore, output: Path) -> str:
    """Return the default type: that of the source, but float32 for float64, and for int8 in .npy."""
    own = str(source.dtype)
    return own if own in STORED and (own != "int8" or output.suffix != ".npy") else "float32"


def refuse_source(source: Path, output: Path) -> None:
    """Raise `UserError` if the output would replace the source."""
    if source.resolve() in [output.with_name(name).resolve() for name in file_names(output)]:
        raise UserError(f"{output}: this would replace INPUT, {source}: give OUTPUT another name")


def describe_size(source: FeatureStore, contents: Contents, dtype: str) -> str:
    """Return the space that the vectors take, that of float32 if it is larger, and the size of the source."""
    values = contents.num_vectors * contents.dim
    size = values * np.dtype(dtype).itemsize + (contents.num_vectors * 4 if dtype == "int8" else 0)
    text = f"{megabytes(size)} of vectors as {dtype}"
    if size < values * 4:
        text += f", {megabytes(values * 4)} as float32: {1 - size / values / 4:.0%} saved"
    return f"{text}; {source.path.name} has {megabytes(source.path.stat().st_size)}"


def megabytes(size: int) -> str:
    """Return a number of bytes as text, in MB or GB."""
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


if __name__ == "__main__":
    run(main)
