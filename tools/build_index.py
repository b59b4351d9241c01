"""Build an index of pictures, features or captions, which tools/search_retrieval.py --index searches.

    python tools/build_index.py --bundle out/bundle --gallery photos/ --out out/photos.index
    python tools/build_index.py --bundle out/bundle --gallery test.h5 --captions test.tsv --out out/test.index
    python tools/build_index.py --bundle out/bundle --gallery texts.txt --out http://localhost:19530/texts
    python tools/build_index.py --bundle out/new_bundle --from out/photos.index

The gallery is a folder of pictures, a file of features (.npy, .h5 or .tsv) or of captions (.txt, a
sentence a line, or .jsonl of "id", "caption" and "metadata"). --captions adds sentences to the items
of a gallery, from these two or from any table that tools/prepare_data.py reads, such as a .csv with columns
image and caption or COCO's JSON, and from .jsonl of "id" metadata; with them recall is measured, and the
cut-off of "nothing here fits" is made. The same command goes on with a build that was
interrupted; the processes of a launched job share the encoding.

--from encodes the items of an index with another bundle, beside it, and switches to that in one step. What it
held before stays until `tools/change_index.py --index INDEX --drop_previous`.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import _init_paths  # noqa: F401
from _backbone import extract
from _command import leave_on_sigterm, run
from _progress import progress_display
from _unreadable import add_unreadable_option, pictures_left_out

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from serving.bundle.bundle import Bundle
from serving.index import build
from serving.index.address import milvus_address, open_index
from serving.index.card import Card
from serving.index.finishing import ENGINES, Options, encoded_queries
from serving.index.sources import Source, open_source


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("--bundle", metavar="DIR", required=True, help="an exported model")
    parser.add_argument("--gallery", metavar="FOLDER|FILE", help="what is indexed")
    parser.add_argument("--captions", metavar="FILE", help="sentences and metadata of the gallery's items")
    parser.add_argument(
        "--dev_captions",
        metavar="FILE",
        help="sentences about other pictures, such as a dev split's: they tell when nothing fits",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--out", metavar="INDEX", help="folder to write, or the address of a Milvus collection"
    )
    target.add_argument("--from", dest="old", metavar="INDEX", help="an index whose model is to change")
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="how to search (default: by docs/index.md)"
    )
    parser.add_argument(
        "--memory", type=float, default=8.0, metavar="GB", help="that the engine may hold (default 8)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an index, or a build that was begun"
    )
    add_unreadable_option(parser)
    arguments = parser.parse_args()
    leave_on_sigterm()
    if not 0 < arguments.memory < 1e9:  # nor NaN
        raise UserError(f"--memory: expected a number of GB above 0 and below 1e9, got {arguments.memory:g}")
    if arguments.out and not arguments.gallery:
        raise UserError("--gallery: expected a folder of pictures, or a file of features or captions")
    bundle = Bundle.open(arguments.bundle, extract=extract)
    folder = str(Path(arguments.bundle).resolve())
    options = Options(arguments.engine, int(arguments.memory * 1e9), folder)
    card = rebuild(bundle, arguments, options) if arguments.old else build_new(bundle, arguments, options)
    if card:
        print(f"{arguments.old or arguments.out}: {card.describe()}")
    if card and arguments.out:
        print(f"next: python tools/serve_retrieval.py --index {shlex.quote(str(arguments.out))}")


def build_new(bundle: Bundle, arguments: argparse.Namespace, options: Options) -> Card | None:
    """Build the index of a gallery."""
    left_out = pictures_left_out(arguments.gallery, arguments.unreadable)
    source = open_source(arguments.gallery, arguments.captions, arguments.dev_captions, left_out)
    print(f"{arguments.out}: indexing {len(source.items):,} items of {arguments.gallery}", flush=True)
    if milvus_address(arguments.out):
        return build_in_milvus(bundle, source, arguments.out, options)
    job, out = build.Job.launched(), Path(arguments.out)
    if arguments.overwrite and not job.number and out.is_dir():
        if any(out.iterdir()) and not ((out / "card.json").exists() or (out / "building").is_dir()):
            raise UserError(
                f"{out}: --overwrite replaces an index, and this folder holds none: give another --out"
            )
        shutil.rmtree(out)
    with progress_display() as show:
        return build.build(bundle, source, out, options, show, job)


def rebuild(bundle: Bundle, arguments: argparse.Namespace, options: Options) -> Card | None:
    """Encode the items of an index with another bundle."""
    with open_index(arguments.old, resident=False) as index:
        card = index.card
        items = list(index.items()) if milvus_address(arguments.old) else []
    if card.bundle == bundle.identity:
        raise UserError(f"{arguments.bundle}: {arguments.old} is of this bundle already: nothing to change")
    gallery = arguments.gallery or card.source.get("path", "")
    files = (getattr(arguments, name) or card.source.get(name) for name in ("captions", "dev_captions"))
    source = open_source(gallery, *files, pictures_left_out(gallery, arguments.unreadable))
    if milvus_address(arguments.old):
        return build_in_milvus(bundle, source.limited_to(items, arguments.old), arguments.old, options)
    with progress_display() as show:
        return build.rebuild(bundle, source, Path(arguments.old), options, show, build.Job.launched())


def build_in_milvus(bundle: Bundle, source: Source, address: str, options: Options) -> Card | None:
    """Build an index in a folder beside, from where it goes on after an interruption, and copy it."""
    from serving.index.milvus.copying import copy_to_milvus

    server, name = milvus_address(address)
    folder, job = Path(f"{name}.milvus"), build.Job.launched()
    options = Options("scan", options.memory, options.bundle_folder)
    with progress_display() as show:
        if not (folder / "card.json").exists():
            build.build(bundle, source, folder, options, show, job)
        if job.number:
            return None
        queries = encoded_queries(bundle, source)
        card = copy_to_milvus(folder, server, name, queries.vectors if queries else None, show)
    shutil.rmtree(folder)
    return card


if __name__ == "__main__":
    anew = " without --overwrite" if "--overwrite" in sys.argv else ""
    run(main, f"the same command{anew} goes on where it was")
