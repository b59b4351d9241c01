"""Count anybody's scores in every convention side by side, or by the protocols of papers.

    python tools/recount.py scores.npz
    python tools/recount.py scores.npz --protocol one_list coco_1k --out counted
    python tools/recount.py scores.npz --protocol cxc eccv --data path/to/eccv_caption/data
    python tools/recount.py scores.npz --protocol ndcg --relevance grades.csv
    python tools/recount.py scores.npz --protocol coco_1k --quirk cut_lists

The file holds image_ids [I] and caption_image_ids [T], and either scores [I,T] (as eval_retrieval.py
--save_scores writes them), embeddings image [I,D] and text [T,D], or ranked lists i2t [I,T] and t2i [T,I] of
0-based places. Any code that writes NumPy's format can make it. With --out, a folder of each protocol gets a
result.json and a ranks.npz, which tools/compare_results.py compares.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole

if TYPE_CHECKING:
    from engine.protocols.measure import MeasuredProtocol
    from engine.protocols.scored import Scored


def main() -> int:
    """Parse the command line and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scores", metavar="SCORES.npz")
    parser.add_argument("--protocol", nargs="+", default=[], metavar="NAME", help="see docs/protocols.md")
    parser.add_argument(
        "--quirk", nargs="+", default=[], metavar="NAME", help="quirks of other code to reproduce"
    )
    parser.add_argument(
        "--ties",
        default="against",
        choices=("against", "favour", "average"),
        help="tie rule (default against)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of eccv-caption's data, and of CxC's"
    )
    parser.add_argument("--objects", type=Path, metavar="F.json", help="objects of the pictures, for PMRP")
    parser.add_argument(
        "--relevance", type=Path, metavar="F", help="right pairs, in the forms of DATASET.RELEVANCE"
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=123, metavar="S", help="of the resamples (default 123)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for a result of each protocol")
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    if arguments.resamples < 1:
        raise UserError(f"--resamples: expected at least 1, got {arguments.resamples}")
    return recount(arguments)


def recount(arguments: argparse.Namespace) -> int:
    """Print the table of all conventions, or of the protocols that were named."""
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")  # scores of embeddings are multiplied by the library that Paddle brings
    from engine.protocols.measure import check_protocols, measure_protocols
    from engine.protocols.protocols import Request
    from engine.protocols.recount import conventions, format_rows, share_of_ties
    from engine.protocols.scored import read_scores, with_relevance

    check_protocols(arguments.protocol, arguments.data, arguments.objects, arguments.quirk)
    scored = read_scores(Path(arguments.scores), "cut_lists" in arguments.quirk)
    if arguments.relevance:
        scored = with_relevance(scored, arguments.relevance)
    images, captions = scored.shape
    print(f"{arguments.scores}: {images} images, {captions} captions, right ones by {scored.relevance.rule}")
    if not arguments.protocol:
        if scored.cut:
            raise UserError("--quirk cut_lists: expected a --protocol with it")
        of_images, of_captions = share_of_ties(scored)
        print(
            f"ranks that depend on the tie rule: {of_images:.1f}% of images, {of_captions:.1f}% of captions\n"
        )
        print("\n".join(format_rows(conventions(scored))))
        return 0
    request = Request(scored, arguments.ties, frozenset(arguments.quirk), arguments.data, arguments.objects)
    found = measure_protocols(request, arguments.protocol, arguments.resamples, arguments.seed)
    print(
        f"95% intervals: bootstrap over images, {arguments.resamples:,} resamples from seed {arguments.seed}"
    )
    for each in found:
        print("\n".join(each.lines()))
        if arguments.out:
            print(f"written: {write(arguments.out / each.name, each, scored)}")
    return 0


def write(folder: Path, found: "MeasuredProtocol", scored: "Scored") -> Path:
    """Write the result and the ranks of a protocol into `folder`; return the path of the result."""
    from engine.certificates.stored import RANKS_FILE, write_ranks

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; name another folder with --out") from error
    names = {
        "images": scored.image_ids,
        "captions": [scored.image_ids[image] for image in scored.caption_image],
    }
    content = found.as_dict() | {
        "config": {"OUTPUT": {"SAVE_NAME": str(scored.path)}, "SCORES": {"FILE": str(scored.path)}}
    }
    write_whole(folder / "result.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_ranks(folder / RANKS_FILE, found.counted.sides, found.stamp["tie_rule"], names)
    return folder / "result.json"


if __name__ == "__main__":
    run(main)
